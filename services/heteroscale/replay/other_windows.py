"""A counterfactual's windows: from the recorded telemetry again, without some samples or under other window settings.

Only where the bundle holds all the telemetry that a window needs; windows of the lead-in stay as they were recorded. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import InstanceSample, Samples
from heteroscale.contracts.units import instant_text
from heteroscale.replay import signal_stage
from heteroscale.replay.overrides import Override, applied
from heteroscale.replay.recorded import Recorded
from heteroscale.signals.timeline import parameters


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows by service and end. `since`: each service's instant up to which those recorded stand; `late`: later than the bundle's own."""

    made: Mapping[tuple[ServiceName, int], SignalWindow]
    since: Mapping[ServiceName, int]
    late: frozenset[ServiceName] = field(default_factory=frozenset)

    def instead_of(self, window: SignalWindow) -> SignalWindow | None:
        """The window of the same end; null where the telemetry does not reach so far."""
        if window.end_ms <= self.since.get(window.service, window.end_ms):
            return window
        return self.made.get((window.service, window.end_ms))

    def notes(self, service: ServiceName) -> list[str]:
        """What a reader must know."""
        if service not in self.late:
            return []
        return [f"windows up to {instant_text(self.since[service])} are the recorded ones: there is no telemetry for longer ones"]


def made_again(recorded: Recorded, overrides: Sequence[Override], without: Sequence[str]) -> Windows | None:
    """Windows under a case; null if it leaves them as they were recorded. Raises Rejected (`override`, `unknown_name`)."""
    changed = [(spec, other) for spec in _specs(recorded) if (other := applied(spec, overrides)).window != spec.window]
    if not changed and not without:
        return None
    for spec, other in changed:
        if spec.window.hop != other.window.hop:
            cure = "each recorded decision has an instant of its own; heteroscale simulate plays a day under another one"
            raise Rejected("override", f"cannot be another one in a replay: {cure}", f"{spec.service} window.hop")
    begins = recorded.bundle.manifest.window.from_ms
    since = dict.fromkeys(recorded.specs, begins)
    for spec, other in changed:
        longer = parameters(other).horizon_ms - parameters(spec).horizon_ms
        since[spec.service] = max(since[spec.service], begins + longer)
    leaving = _Leaving(without)
    again = signal_stage.windows(recorded, edit=leaving, shape=lambda spec: applied(spec, overrides))
    made = {(window.service, window.end_ms): window for window in again}
    strange = sorted(set(without) - leaving.seen)
    if strange:
        cure = "explain BUNDLE --at INSTANT --all lists who was heard"
        raise Rejected("unknown_name", f"is no instance and no node in the bundle's telemetry; {cure}", strange[0])
    return Windows(made, since, frozenset(service for service, at_ms in since.items() if at_ms > begins))


def _specs(recorded: Recorded) -> list[ServiceSpec]:
    return [spec for _, revisions in sorted(recorded.specs.items()) for _, spec in revisions if spec is not None]


class _Leaving:
    """Leaves out the samples of some instances or nodes, and notes which of these it met."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [(name, name.encode()) for name in names]
        self.seen: set[str] = set()

    def __call__(self, record: Record) -> Record:
        """The record without them."""
        if record.value is None or not any(encoded in record.value for _, encoded in self._names):
            return record
        try:
            message = codec.decode(Samples, record.value)
        except Rejected:
            return record
        kept = [sample for sample in message.samples if not self._named(sample)]
        return record._replace(value=codec.encode(msgspec.structs.replace(message, samples=kept)))

    def _named(self, sample: InstanceSample) -> bool:
        hits = [name for name, _ in self._names if name in {sample.instance, sample.node}]
        self.seen.update(hits)
        return bool(hits)
