"""The closing figures, computed from records of telemetry.v1, decisions.v1 and placements.v1 and from nothing else.

Definitions (2-contracts, "simulate"): a GPU is held from the placement that reserves it to the one that no longer lists
it; utilisation is work done over GPU-seconds held; attainment is requests that met both targets over requests offered.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import Histogram, InstanceSample, Samples
from heteroscale.decision.law import ratio
from heteroscale.simulator.model.fluid import Latency, Served, Strength
from heteroscale.simulator.model.pool import Kind
from heteroscale.simulator.model.service import edges_of, slo_s

Floats = npt.NDArray[np.float64]

MINUTE_MS = 60_000
Yardstick = Mapping[tuple[str, str], float]  # (role, GPU type) → tokens/s a GPU does at most within the SLO


@dataclass(slots=True)
class Minute:
    """Requests and tokens of one service in one minute, and how many of them met their target."""

    requests: float = 0.0
    in_ttft: float = 0.0
    tokens: float = 0.0
    in_tbt: float = 0.0

    def add(self, requests: float, in_ttft: float, tokens: float, in_tbt: float) -> None:
        """Count some more."""
        self.requests += requests
        self.in_ttft += in_ttft
        self.tokens += tokens
        self.in_tbt += in_tbt


@dataclass(frozen=True, slots=True)
class Last:
    """What an instance's counters stood at."""

    at_ms: int
    started_at_ms: int | None
    work_tokens: float
    ttft: tuple[float, float]
    tbt: tuple[float, float]


@dataclass(slots=True)
class Held:
    """One instance's hold on GPUs, in ms."""

    role: str
    gpus: int
    since_ms: int
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """What came out for one service."""

    requests: float
    unserved: float
    in_slo: float
    ttft_attainment: float | None
    tbt_attainment: float | None
    gpu_seconds: dict[str, float]
    work_gpu_seconds: dict[str, float]
    scale_actions: int
    direction_changes: int
    pair_violations: int
    unplaced_minutes: float
    cross_s2_pairs: int
    decisions: int


@dataclass(slots=True)
class Tally:
    """Folds the records of one service between two instants. Records may come topic by topic, each in its order."""

    spec: ServiceSpec
    start_ms: int
    end_ms: int
    yardstick: Yardstick
    minutes: dict[int, Minute] = field(default_factory=lambda: defaultdict(Minute))
    last: dict[str, Last] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    held: dict[str, Held] = field(default_factory=dict)
    holding: set[str] = field(default_factory=set)
    decisions: int = 0
    decided_ms: int = -1
    lone_decisions: int = 0
    scale_actions: int = 0
    direction_changes: int = 0
    direction: int = 0
    newest_scale_out: Decision | None = None
    newest: tuple[int, int] = (-1, -1)
    born: set[str] = field(default_factory=set)
    lame_groups: set[str] = field(default_factory=set)
    across: set[str] = field(default_factory=set)
    short_since_ms: int | None = None
    short_ms: int = 0

    def telemetry(self, record: Samples) -> None:
        """Difference each instance's counters with its last ones; an instance's first ones count from zero."""
        limits = {name: slo_s(self.spec, name) for name in ("ttft", "tbt")}
        for sample in record.samples:
            if sample.generation_tokens is None and sample.prompt_tokens is None:
                continue
            before = self.last.get(sample.instance)
            if _work(sample) < 0 or (before is not None and sample.at_ms <= before.at_ms):
                continue  # garbage, or it came late and the newer ones say it all
            now = Last(
                sample.at_ms,
                sample.started_at_ms,
                _work(sample),
                _within(sample.ttft, record.layouts, limits["ttft"]),
                _within(sample.tbt, record.layouts, limits["tbt"]),
            )
            if before is None or before.started_at_ms != now.started_at_ms:
                before = Last(now.at_ms, now.started_at_ms, 0.0, (0.0, 0.0), (0.0, 0.0))
            self.last[sample.instance] = now
            if self.start_ms < sample.at_ms <= self.end_ms:
                self._difference(sample, before, now)

    def served(self, from_ms: int, step_ms: int, served: Served, latency: Latency, strength: Strength) -> None:
        """Add steps as a direct run counts them; the first ends at `from_ms` + `step_ms`."""
        ends = from_ms + step_ms * np.arange(1, len(served.requests) + 1)
        counted = (self.start_ms < ends) & (ends <= self.end_ms)
        if not counted.any():
            return
        in_ttft = served.requests * self._share("ttft", latency.ttft)
        in_tbt = served.output * self._share("tbt", latency.tbt)
        rows = np.stack([served.requests, in_ttft, served.output, in_tbt])[:, counted]
        minutes = (ends[counted] - 1) // MINUTE_MS
        firsts = np.flatnonzero(np.diff(minutes, prepend=-1))
        for number, sums in zip(minutes[firsts].tolist(), np.add.reduceat(rows, firsts, axis=1).T.tolist(), strict=True):
            self.minutes[number].add(*sums)
        for part in strength.parts:
            peak = self.yardstick.get((part.role, part.gpu_type))
            whole = strength.prefill if part.kind is Kind.PREFILL else strength.decode
            tokens = served.missed if part.kind is Kind.PREFILL else served.output
            if peak and whole and part.kind is not Kind.OTHER:
                self.work[part.role] += part.power / whole * float(tokens[counted].sum()) / peak

    def _share(self, name: str, within: Floats) -> Floats | float:
        """The column of a service's target; all, if there is no target."""
        limit = slo_s(self.spec, name)
        if limit is None:
            return 1.0
        edges = edges_of(self.spec, Kind.PREFILL if name == "ttft" else Kind.DECODE)
        return np.asarray(within[:, int(np.searchsorted(edges, limit))])

    def _difference(self, sample: InstanceSample, before: Last, now: Last) -> None:
        minute = self.minutes[(sample.at_ms - 1) // MINUTE_MS]
        minute.add(now.ttft[0] - before.ttft[0], now.ttft[1] - before.ttft[1], now.tbt[0] - before.tbt[0], now.tbt[1] - before.tbt[1])
        peak = self.yardstick.get((sample.role, sample.gpu_type or ""))
        if peak:
            self.work[sample.role] += (now.work_tokens - before.work_tokens) / peak

    def decision(self, decision: Decision) -> None:
        """Count a decision, once however often it comes; they come in the order of their windows."""
        if not self.start_ms <= decision.at_ms <= self.end_ms or decision.at_ms <= self.decided_ms:
            return
        self.decided_ms = decision.at_ms
        self.decisions += 1
        self.lone_decisions += not holds_pair(decision, self.spec)
        if decision.action is Action.SCALE_OUT:
            self.newest_scale_out = decision
        if decision.action in {Action.SCALE_OUT, Action.SCALE_IN}:
            direction = 1 if decision.action is Action.SCALE_OUT else -1
            self.scale_actions += 1
            self.direction_changes += direction == -self.direction
            self.direction = direction

    def placement(self, placement: Placement) -> None:
        """Fold an assignment; dry runs and what is not above the last (gen, seq) say nothing."""
        if placement.dry_run or placement.seq is None or (placement.gen, placement.seq) <= self.newest:
            return
        self.newest = (placement.gen, placement.seq)
        failed = InstanceState.FAILED
        listed = {instance.id: instance for group in placement.groups for instance in group.instances if instance.state is not failed}
        self._groups(placement)
        for name in self.holding - listed.keys():
            self.held[name].until_ms = placement.at_ms
        for name in listed.keys() - self.held.keys():
            instance = listed[name]
            self.held[name] = Held(instance.role, sum(instance.nodes.values()), placement.at_ms)
        self.holding = {name for name in listed if self.held[name].until_ms is None}
        self._shortfall(placement)

    def _groups(self, placement: Placement) -> None:
        for group in placement.groups:
            if group.id not in self.born:
                self.born.add(group.id)
                if not set(self.spec.ratio) <= {instance.role for instance in group.instances}:
                    self.lame_groups.add(group.id)
            if group.domain.s2 is None:
                self.across.update(instance.id for instance in group.instances if "prefill" in instance.role)

    def _shortfall(self, placement: Placement) -> None:
        short = any(placement.shortfall.values())
        if short and self.short_since_ms is None:
            self.short_since_ms = placement.at_ms
        elif not short and self.short_since_ms is not None:
            self.short_ms += self._inside(self.short_since_ms, placement.at_ms)
            self.short_since_ms = None

    def _inside(self, since_ms: int, until_ms: int) -> int:
        return max(0, min(until_ms, self.end_ms) - max(since_ms, self.start_ms))

    def figures(self, requests: float | None = None) -> ServiceFigures:
        """What came out. `requests`: those that were offered; without it those that engines have seen."""
        seen = math.fsum(minute.requests for minute in self.minutes.values())
        offered = seen if requests is None else requests
        met = math.fsum(_met(minute) for minute in self.minutes.values())
        in_ttft = math.fsum(minute.in_ttft for minute in self.minutes.values())
        tokens = math.fsum(minute.tokens for minute in self.minutes.values())
        in_tbt = math.fsum(minute.in_tbt for minute in self.minutes.values())
        seconds: dict[str, float] = defaultdict(float)
        for _, held in sorted(self.held.items()):
            seconds[held.role] += held.gpus * self._inside(held.since_ms, self.end_ms if held.until_ms is None else held.until_ms) / 1000
        short = self.short_ms + (0 if self.short_since_ms is None else self._inside(self.short_since_ms, self.end_ms))
        return ServiceFigures(
            requests=offered,
            unserved=max(0.0, offered - seen),
            in_slo=min(met, offered),
            ttft_attainment=min(1.0, in_ttft / offered) if offered and slo_s(self.spec, "ttft") is not None else None,
            tbt_attainment=in_tbt / tokens if tokens and slo_s(self.spec, "tbt") is not None else None,
            gpu_seconds=dict(sorted(seconds.items())),
            work_gpu_seconds=dict(sorted(self.work.items())),
            scale_actions=self.scale_actions,
            direction_changes=self.direction_changes,
            pair_violations=self.lone_decisions + len(self.lame_groups),
            unplaced_minutes=round(short / MINUTE_MS, 3),
            cross_s2_pairs=len(self.across),
            decisions=self.decisions,
        )


def holds_pair(decision: Decision, spec: ServiceSpec) -> bool:
    """Whether the replicas after the decision are derive(n), n being the lead's."""
    lead = spec.signals[0].role
    if lead not in spec.ratio:
        lead = min(spec.ratio)
    after = {role: decision.after[role].replicas for role in spec.ratio if role in decision.after}
    return set(after) == set(spec.ratio) and after == ratio.derive(after[lead], spec.ratio, lead)


def _met(minute: Minute) -> float:
    """Requests of a minute that met both targets; the two are taken as independent within the minute."""
    return minute.in_ttft * (minute.in_tbt / minute.tokens if minute.tokens else 1.0)


def _work(sample: InstanceSample) -> float:
    """Tokens that took work: decoded ones, and prompt tokens that the prefix cache did not have."""
    if sample.prompt_tokens is not None:
        return float(sample.prompt_tokens) - float(sample.cached_prompt_tokens or 0)
    return float(sample.generation_tokens or 0)


def _within(histogram: Histogram | None, layouts: Mapping[str, Sequence[float]], limit_s: float | None) -> tuple[float, float]:
    """Observations in all, and those at or below `limit_s`, which is an edge of the layout (all, if there is no target)."""
    if histogram is None:
        return (0.0, 0.0)
    total = float(sum(histogram.counts))
    if limit_s is None:
        return (total, total)
    inside = sum(1 for edge in layouts[histogram.layout] if edge <= limit_s)
    return (total, float(sum(histogram.counts[:inside])))


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run over all its services."""

    hours: float
    gpu_hours: float
    gpu_hours_static_peak: float
    gpu_util: float | None
    gpu_util_by_role: dict[str, float]
    slo_attainment: float | None
    ttft_attainment: float | None
    tbt_attainment: float | None
    requests: int
    unserved_requests: int
    scale_actions: int
    direction_changes: int
    pair_violations: int
    unplaced_minutes: float
    cross_s2_pairs: int
    decisions: int


def summarise(figures: Iterable[ServiceFigures], hours: float, static_gpu_hours: float) -> Summary:
    """Add up the services; attainments are weighted by requests."""
    services = list(figures)
    held: dict[str, float] = defaultdict(float)
    work: dict[str, float] = defaultdict(float)
    for service in services:
        for role, seconds in service.gpu_seconds.items():
            held[role] += seconds
        for role, seconds in service.work_gpu_seconds.items():
            work[role] += seconds
    total_held = math.fsum(held.values())
    requests = math.fsum(service.requests for service in services)
    stated = [service for service in services if service.ttft_attainment is not None or service.tbt_attainment is not None]
    return Summary(
        hours=round(hours, 6),
        gpu_hours=round(total_held / 3600, 3),
        gpu_hours_static_peak=round(static_gpu_hours, 3),
        gpu_util=round(math.fsum(work.values()) / total_held, 4) if total_held else None,
        gpu_util_by_role={role: round(work.get(role, 0.0) / seconds, 4) for role, seconds in sorted(held.items()) if seconds},
        slo_attainment=_weighted([(service.requests, service.in_slo / service.requests) for service in stated if service.requests]),
        ttft_attainment=_weighted([(s.requests, s.ttft_attainment) for s in stated if s.ttft_attainment is not None]),
        tbt_attainment=_weighted([(s.requests, s.tbt_attainment) for s in stated if s.tbt_attainment is not None]),
        requests=round(requests),
        unserved_requests=round(math.fsum(service.unserved for service in services)),
        scale_actions=sum(service.scale_actions for service in services),
        direction_changes=sum(service.direction_changes for service in services),
        pair_violations=sum(service.pair_violations for service in services),
        unplaced_minutes=round(math.fsum(service.unplaced_minutes for service in services), 3),
        cross_s2_pairs=sum(service.cross_s2_pairs for service in services),
        decisions=sum(service.decisions for service in services),
    )


def _weighted(pairs: Sequence[tuple[float, float]]) -> float | None:
    weight = math.fsum(one for one, _ in pairs)
    return round(math.fsum(one * value for one, value in pairs) / weight, 6) if weight else None
