"""What would have been decided under another spec, another version, or without an instance: exact up to the first changed action.

That instant is the horizon. After it the recorded telemetry is no longer what the world would have answered, so from there on
`plant` stands in for the world, and every figure says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import InstanceName, NodeName, ServiceName
from heteroscale.contracts.signals import Quantiles, SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import Samples
from heteroscale.replay import decision_stage, plant, signal_stage
from heteroscale.replay.decider import Decider, Ours
from heteroscale.replay.overrides import Override, applied
from heteroscale.replay.recorded import Recorded

OBSERVATIONS_MIN = 50  # fewer neither alarm nor block, as in the law
MS_PER_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Case:
    """What is different. `without`: instances or nodes whose samples are left out."""

    overrides: Sequence[Override] = ()
    without: Sequence[str] = ()
    decider: Callable[[], Decider] = Ours


class Step(msgspec.Struct, frozen=True):
    """One window: what was decided, what would have been, and whether that is exact."""

    recorded: Decision
    other: Decision | None
    exact: bool
    window: SignalWindow
    other_window: SignalWindow
    spec: ServiceSpec

    @property
    def changed(self) -> bool:
        """Whether another action would have been taken."""
        return self.other is None or (self.other.action, self.other.after) != (self.recorded.action, self.recorded.after)


class Answer(msgspec.Struct, frozen=True):
    """A service's course under the case. `horizon_ms`: the first changed action; null if nothing would have changed."""

    service: ServiceName
    steps: list[Step]
    horizon_ms: int | None
    startup_ms: int


def ask(recorded: Recorded, case: Case) -> list[Answer]:
    """Every service of the bundle, under the case. Raises Rejected."""
    windows = _windows_without(recorded, case.without) if case.without else None
    return [_service(recorded, service, case, windows) for service in sorted(recorded.bundle.manifest.services)]


def _service(
    recorded: Recorded, service: ServiceName, case: Case, windows: Mapping[tuple[ServiceName, int], SignalWindow] | None
) -> Answer:
    course = decision_stage.course(recorded, service)
    start_spec = course.start.spec
    spec = None if start_spec is None else applied(start_spec, case.overrides)
    world = plant.Plant(plant.startup_ms(one.message for one in recorded.placements if one.message.service == service))
    decider = case.decider()
    steps: list[Step] = []
    horizon_ms: int | None = None
    last: SignalWindow | None = None
    true_spec = start_spec
    try:
        decider.begin(msgspec.structs.replace(course.start, spec=spec))
        for cue in course.cues():
            if cue.spec is not None:
                true_spec = cue.spec[1]
                spec = None if true_spec is None else applied(true_spec, case.overrides)
                decider.learn(spec, cue.spec[0])
            if true_spec is None or spec is None:
                continue
            for placement in cue.placements if horizon_ms is None else ():
                decider.place(placement.message, placement.record)
            window = cue.window.message
            other = window if windows is None else windows.get((service, window.end_ms), window)
            if horizon_ms is not None:
                other = world.window(other)
            decision = decider.decide(other, cue.window.record if horizon_ms is None else None)
            step = Step(cue.recorded.message, decision, horizon_ms is None, window, other, spec)
            steps.append(step)
            if horizon_ms is None and step.changed:
                horizon_ms = window.end_ms
                world.begin(last or window)
                decider.detach()
            if horizon_ms is not None and decision is not None:
                world.obey(decision.after, window.end_ms)
            last = window
    finally:
        decider.close()
    return Answer(service, steps, horizon_ms, world.startup_ms)


def _windows_without(recorded: Recorded, names: Sequence[str]) -> dict[tuple[ServiceName, int], SignalWindow]:
    """Windows from the telemetry without the samples of some instances or nodes. Raises Rejected (`unknown_name`)."""
    seen: set[str] = set()

    def edit(record: Record) -> Record:
        if record.value is None or not any(name.encode() in record.value for name in names):
            return record
        try:
            message = codec.decode(Samples, record.value)
        except Rejected:
            return record
        kept = [sample for sample in message.samples if not (_named(sample.instance, sample.node, names, seen))]
        return record._replace(value=codec.encode(msgspec.structs.replace(message, samples=kept)))

    found = {(window.service, window.end_ms): window for window in signal_stage.windows(recorded, edit=edit)}
    strange = sorted(set(names) - seen)
    if strange:
        raise Rejected("unknown_name", "is no instance and no node in the bundle's telemetry", strange[0])
    return found


def _named(instance: InstanceName, node: NodeName | None, names: Sequence[str], seen: set[str]) -> bool:
    hits = [name for name in names if name in {instance, node}]
    seen.update(hits)
    return bool(hits)


class Figures(msgspec.Struct, frozen=True):
    """What a course of decisions cost and did. GPU-hours are those commanded, draining included."""

    decisions: int
    scale_outs: int
    scale_ins: int
    restores: int
    direction_changes: int
    gpu_hours: float
    guard_alarm_minutes: float
    peak_gpus: int


def figures(steps: Iterable[Step], *, other: bool) -> Figures:
    """Figures of the recorded course, or of the other one."""
    moves: list[Action] = []
    gpu_ms, alarm_ms, peak, count = 0, 0, 0, 0
    for step in steps:
        decision = step.other if other else step.recorded
        window = step.other_window if other else step.window
        if decision is None:
            continue
        count += 1
        hop_ms = step.spec.window.hop.ms
        if decision.action is not Action.HOLD:
            moves.append(decision.action)
        gpus = sum((after.replicas + after.draining) * _gpus(step.spec, role) for role, after in decision.after.items())
        gpu_ms += gpus * hop_ms
        peak = max(peak, gpus)
        alarm_ms += hop_ms * alarms(step.spec, window)
    turns = [action for action in moves if action in {Action.SCALE_OUT, Action.SCALE_IN}]
    return Figures(
        decisions=count,
        scale_outs=moves.count(Action.SCALE_OUT),
        scale_ins=moves.count(Action.SCALE_IN),
        restores=moves.count(Action.RESTORE),
        direction_changes=sum(one is not next_one for one, next_one in pairwise(turns)),
        gpu_hours=round(gpu_ms / MS_PER_HOUR, 2),
        guard_alarm_minutes=round(alarm_ms / 60_000, 1),
        peak_gpus=peak,
    )


def _gpus(spec: ServiceSpec, role: str) -> int:
    found = spec.roles.get(role)
    if found is None:
        return 0
    if found.parts:
        return sum(part.count * part.gpus for part in found.parts.values())
    return found.gpus or 0


def alarms(spec: ServiceSpec, window: SignalWindow) -> bool:
    """Whether any guard's latency is at or above its moderate threshold in the window."""
    for guard in spec.guards:
        for role, seen in window.roles.items():
            quantiles: Quantiles | None = getattr(seen, f"{guard.latency}_ms", None)
            if quantiles is None or quantiles.count < OBSERVATIONS_MIN or (guard.role is not None and role != guard.role):
                continue
            value: float = getattr(quantiles, str(guard.quantile))
            if value >= guard.moderate.ms:
                return True
    return False


class Summary(msgspec.Struct, frozen=True):
    """A service's outcome: up to the horizon (the same by definition), then as recorded and as modelled."""

    service: ServiceName
    horizon_ms: int | None
    changed: list[dict[str, object]]
    before: Figures
    recorded: Figures
    modelled: Figures


def summary(answer: Answer) -> Summary:
    """The outcome table of one service."""
    edge = len(answer.steps) if answer.horizon_ms is None else next(at for at, step in enumerate(answer.steps) if step.changed)
    before, after = answer.steps[:edge], answer.steps[edge:]
    changed: list[dict[str, object]] = [
        {
            "at_ms": step.recorded.at_ms,
            "exact": step.exact,
            "decision": step.recorded.id,
            "recorded": {"action": step.recorded.action.value, "reason": step.recorded.reason.value, "after": _after(step.recorded)},
            "instead": None
            if step.other is None
            else {"action": step.other.action.value, "reason": step.other.reason.value, "after": _after(step.other)},
        }
        for step in answer.steps
        if step.changed
    ]
    return Summary(
        answer.service,
        answer.horizon_ms,
        changed,
        figures(before, other=False),
        figures(after, other=False),
        figures(after, other=True),
    )


def _after(decision: Decision) -> dict[str, dict[str, int]]:
    return {role: {"replicas": count.replicas, "draining": count.draining} for role, count in sorted(decision.after.items())}
