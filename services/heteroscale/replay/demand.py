"""What was asked of a service, as its telemetry says, in the simulator's terms: a trace, and engines fast enough for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

import msgspec
import numpy as np

from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.replay import signal_stage
from heteroscale.replay.recorded import Recorded
from heteroscale.simulator.load.traffic import Traffic
from heteroscale.simulator.model.curves import Curves, kind_of
from heteroscale.simulator.model.pool import Kind

PROMPT_TOKENS: Final = 1_000.0  # of a request, where no engine counted requests
OUTPUT_TOKENS: Final = 200.0


@dataclass(frozen=True, slots=True)
class Offered:
    """Rates per second of what was served, and requests that waited for prefill and for decode at the end of it."""

    requests: float
    prompt: float
    output: float
    cached: float
    waiting: tuple[float, float] = (0.0, 0.0)


class Row(NamedTuple):
    """What was served up to an instant, since the row before."""

    end_ms: int
    offered: Offered


class Demand:
    """Every service's demand, hop by hop, from one pass over the telemetry: windows as short as a hop, so that none smooths it."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    @cached_property
    def _rows(self) -> Mapping[ServiceName, list[Row]]:
        found: dict[ServiceName, list[Row]] = {}
        for window in signal_stage.windows(self._recorded, shape=_hop_long):
            spec = next((one for _, one in self._recorded.specs.get(window.service, ()) if one is not None), None)
            served = None if spec is None else offered(spec, window)
            rows = found.setdefault(window.service, [])
            if served is not None or rows:
                rows.append(Row(window.end_ms, rows[-1].offered if served is None else served))
        return found

    def since(self, service: ServiceName, opens_ms: int) -> list[Row]:
        """A service's rows that end after an instant; where nobody was heard, the last known rates go on."""
        return [row for row in self._rows.get(service, ()) if row.end_ms > opens_ms]


def _hop_long(spec: ServiceSpec) -> ServiceSpec:
    return msgspec.structs.replace(spec, window=msgspec.structs.replace(spec.window, size=spec.window.hop))


def offered(spec: ServiceSpec, window: SignalWindow) -> Offered | None:
    """What the window saw of prompts and answers; null where no engine said anything."""
    prompt, missed, output, requests = 0.0, 0.0, 0.0, 0.0
    waiting = {Kind.PREFILL: 0.0, Kind.DECODE: 0.0, Kind.OTHER: 0.0}
    heard = False
    seconds = (window.end_ms - window.start_ms) / 1000
    for role, seen in sorted(window.roles.items()):
        kind = kind_of(role, spec)
        waiting[kind] += seen.waiting or 0.0
        if kind is Kind.PREFILL and seen.prefill_tps is not None:
            heard = True
            prompt += seen.prefill_tps
            missed += seen.prefill_tps if seen.prefill_missed_tps is None else seen.prefill_missed_tps
            requests += 0.0 if seen.ttft_ms is None else seen.ttft_ms.count / seconds
        elif kind is Kind.DECODE and seen.decode_tps is not None:
            heard = True
            output += seen.decode_tps
    if not heard:
        return None
    if not requests:
        requests = prompt / PROMPT_TOKENS if prompt else output / OUTPUT_TOKENS
    return Offered(requests, prompt, output, max(0.0, prompt - missed), (waiting[Kind.PREFILL], waiting[Kind.DECODE]))


def traffic(service: ServiceName, rows: Sequence[Row], opens_ms: int) -> Traffic:
    """The rows as a trace from `opens_ms`. What began to wait had arrived as well; what stopped to wait had arrived before."""
    edges, totals = [0.0], list[list[float]]()
    waited = (0.0, 0.0)
    for row in rows:
        one = row.offered
        edges.append((row.end_ms - opens_ms) / 1000)
        seconds = edges[-1] - edges[-2]
        served = one.requests * seconds
        came = max(0.0, served + one.waiting[0] - waited[0]) / served if served else 1.0
        kept = max(0.0, served + one.waiting[1] - waited[1]) / served if served else 1.0
        waited = one.waiting
        totals.append([served * came, one.prompt * seconds * came, one.output * seconds * came * kept, one.cached * seconds * came])
    return Traffic(f"recorded of {service}", np.array(edges), np.array(totals), smooth=False)


def fast_enough(spec: ServiceSpec, curves: Curves, windows: Iterable[SignalWindow]) -> tuple[Curves, dict[str, float]]:
    """Curves on which every recorded rate can be reached: what was served was within the engines' power. By role, how much faster."""
    needed = dict.fromkeys(sorted(spec.roles), 1.0)
    for window in windows:
        for role in needed:
            needed[role] = max(needed[role], _needed(spec, curves, role, window))
    faster = {role: round(factor, 3) for role, factor in needed.items() if factor > 1.0}
    factors = dict(curves.factors)
    for role in faster:
        factors |= {(role, one.type): curves.factor(role, one.type) * needed[role] for one in spec.roles[role].gpu_types}
    return replace(curves, factors=factors), faster


def _needed(spec: ServiceSpec, curves: Curves, role: str, window: SignalWindow) -> float:
    """How much more than the curve a role gave in a window; 0 where that cannot be said."""
    seen, rates, gpus = window.roles.get(role), offered(spec, window), spec.roles[role].gpus
    if seen is None or rates is None or not gpus or not rates.requests:
        return 0.0
    kind = kind_of(role, spec)
    prompt = max(1.0, (rates.prompt - rates.cached) / rates.requests)
    power = sum(by.serving * gpus * curves.factor(role, name) for name, by in sorted(seen.by_gpu_type.items()))
    if kind is Kind.PREFILL and seen.prefill_missed_tps is not None:
        can = float(curves.prefill.rate(prompt)) * power / curves.prefill.engine_gpus
        return seen.prefill_missed_tps / can if can else 0.0
    if kind is Kind.DECODE and seen.decode_tps is not None:
        context = (rates.prompt + rates.output / 2) / rates.requests
        can = float(curves.decode.peak_rate(context)) * power / curves.decode.engine_gpus
        return seen.decode_tps / can if can else 0.0
    return 0.0


def with_startup(curves: Curves, placements: Mapping[str, int]) -> Curves:
    """Curves whose engines start in the median time recorded; as measured where none was recorded."""
    if not placements:
        return curves
    median = sorted(placements.values())[len(placements) // 2]
    return replace(curves, profile=replace(curves.profile, startup_s=median / 1000))


class Startups:
    """Times from reserved to ready, by instance, as placements go by."""

    def __init__(self) -> None:
        self._born: dict[str, int] = {}
        self.took: dict[str, int] = {}

    def see(self, placement: Placement) -> None:
        """One placement of the service, in order."""
        if placement.dry_run:
            return
        for change in placement.changes:
            if change.from_ is None:
                self._born[change.instance] = placement.at_ms
            elif change.to is InstanceState.READY and change.instance in self._born:
                self.took[change.instance] = placement.at_ms - self._born.pop(change.instance)
