"""The study behind the choice of signal: the same law on each of eight signals.

Two questions a signal: how does it move with load (correlation with tokens/s over the windows of a day on a fixed fleet), and what does the
law make of it (the target searched over the same number of values as every policy has). Signals that the law does not know (latencies, and
tokens found in the prefix cache) are put in the place of one that it knows. Part of every prompt is held by the prefix cache: see
`cases.cached`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from heteroscale.contracts.commands import Command
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.spec import Metric, ServiceSpec, SignalSpec
from heteroscale.simulator import policies
from heteroscale.simulator.cores import direct
from heteroscale.simulator.load.traffic import Traffic
from heteroscale.simulator.loop.baseline import Baseline
from heteroscale.simulator.outcome import cases, compare, trial
from heteroscale.simulator.outcome.bench import Bench
from heteroscale.simulator.outcome.compare import Interval, Plan
from heteroscale.simulator.outcome.trial import SHARE_DEFAULT, Ground, Order, Stage, Trial

Look = Callable[[RoleSignal], float | None]


@dataclass(frozen=True, slots=True)
class Subject:
    """A signal under study. `look` reads it, `metric` is the law's that it stands for, `scale` what it is measured against."""

    name: str
    role: str
    metric: Metric
    look: Look
    scale: Callable[[cases.Reference], float]


def _p95(name: str, target_s: float) -> Look:
    def look(signal: RoleSignal) -> float | None:
        quantiles = getattr(signal, name)
        return None if quantiles is None else min(4.0, quantiles.p95 / 1000 / target_s)

    return look


def _cached(signal: RoleSignal) -> float | None:
    if signal.prefill_tps is None or signal.prefill_missed_tps is None:
        return None
    return signal.prefill_tps - signal.prefill_missed_tps


def _one(_: cases.Reference) -> float:
    return 1.0


def _found(at: cases.Reference) -> float:
    """Tokens/s found in the cache beside the reference rate of those that were not."""
    return at.prefill_tps * cases.CACHE_MEAN / (1 - cases.CACHE_MEAN)


SUBJECTS: Final[Sequence[Subject]] = (
    Subject("decode TPS", "decode", Metric.DECODE_TPS, lambda s: s.decode_tps, lambda at: at.decode_tps),
    Subject("prefill TPS, KV-missed", "prefill", Metric.PREFILL_MISSED_TPS, lambda s: s.prefill_missed_tps, lambda at: at.prefill_tps),
    Subject("prefill TPS, cached", "prefill", Metric.PREFILL_TPS, _cached, _found),
    Subject("prefill GPU utilisation", "prefill", Metric.GPU_UTIL, lambda s: s.gpu_util, _one),
    Subject("decode GPU utilisation", "decode", Metric.GPU_UTIL, lambda s: s.gpu_util, _one),
    Subject("decode SM activity", "decode", Metric.SM_ACTIVE, lambda s: s.sm_active, _one),
    Subject("TTFT p95", "prefill", Metric.GPU_UTIL, _p95("ttft_ms", cases.TTFT_S), _one),
    Subject("TBT p95", "decode", Metric.GPU_UTIL, _p95("tbt_ms", cases.TBT_S), _one),
)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One signal on one case: how it moves with load, and what the best of its targets gave over the seeds."""

    case: str
    signal: str
    correlation: Interval | None
    setting: float
    gpu_hours: Interval
    gpu_util: Interval
    slo_attainment: Interval
    direction_changes: Interval


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """All signals."""

    rows: list[Finding]
    frontier: list[Trial]


@dataclass(slots=True)
class Lens:
    """The production controller, seeing one signal in the place of another."""

    inner: direct.Ours
    subject: Subject

    def window(self, window: SignalWindow) -> tuple[Decision, Command | None]:
        """See direct.Decider."""
        signal = window.roles.get(self.subject.role)
        if signal is not None:
            changed = msgspec.structs.replace(signal, **{self.subject.metric.value: self.subject.look(signal)})
            window = msgspec.structs.replace(window, roles={**window.roles, self.subject.role: changed})
        return self.inner.window(window)

    def placed(self, placement: Placement) -> None:
        """See direct.Decider."""
        self.inner.placed(placement)


@dataclass(slots=True)
class Watch:
    """A fixed fleet whose windows are kept."""

    baseline: Baseline
    spec: ServiceSpec
    windows: list[SignalWindow] = field(default_factory=list)

    def window(self, window: SignalWindow) -> tuple[Decision, Command | None]:
        """See direct.Decider."""
        self.windows.append(window)
        return self.baseline.judge(self.spec, window)

    def placed(self, placement: Placement) -> None:
        """See direct.Decider."""


def study(plan: Plan, bench: Bench) -> Study:
    """Every signal on every case of the plan, with the main start-up time."""
    names = [subject.name for subject in SUBJECTS]
    targets = compare.SETTINGS[policies.OURS]
    tried = [_order(plan, case, name, target) for case in plan.cases for name in names for target in targets]
    frontier = bench.run(tried, play, "signals")
    rows = []
    for case in plan.cases:
        best = {name: compare.choose(frontier, case, name).setting for name in names}
        seeds = range(1, plan.seeds + 1)
        orders = [_order(plan, case, name, best[name], seed) for name in names for seed in seeds]
        known = dict(zip(orders, bench.run(orders, play, "signals, best targets"), strict=True))
        moves = [correlate(_order(plan, case, "static-peak", None, seed)) for seed in seeds]
        rows += [_finding([known[order] for order in orders if order.policy == name], [one[name] for one in moves]) for name in names]
    return Study(rows=rows, frontier=frontier)


def _finding(trials: Sequence[Trial], correlations: Sequence[float | None]) -> Finding:
    stated = [one for one in correlations if one is not None]
    return Finding(
        case=trials[0].case,
        signal=trials[0].policy,
        correlation=compare.interval(stated) if stated else None,
        setting=trials[0].setting or 0.0,
        gpu_hours=compare.interval([one.gpu_hours for one in trials]),
        gpu_util=compare.interval([one.gpu_util for one in trials]),
        slo_attainment=compare.interval([one.slo_attainment for one in trials]),
        direction_changes=compare.interval([float(one.direction_changes) for one in trials]),
    )


def _order(plan: Plan, case: str, name: str, target: float | None, seed: int = compare.TUNING_SEED) -> Order:
    hours = cases.CASES[case].cut(plan.hours)
    return Order(case=case, policy=name, setting=target, seed=seed, startup_s=plan.startups(case)[0], hours=hours)


def _ground(order: Order) -> Ground:
    return trial.ground(order.case, order.seed, order.startup_s, order.hours, prefix_hits=True)


def spec_for(trace: Traffic, subject: Subject, share: float) -> ServiceSpec:
    """The case's spec on this signal alone, without guards: what the signal can do by itself."""
    spec = cases.spec_of(trace, share)
    target = share * subject.scale(cases.reference(trace))
    return msgspec.structs.replace(spec, signals=[SignalSpec(metric=subject.metric, role=subject.role, target=target)], guards=[])


def play(order: Order) -> Trial:
    """The law on the signal that the order names, with this share of what it is measured against as target."""
    subject = next(one for one in SUBJECTS if one.name == order.policy)
    here = _ground(order)
    stage = Stage(order, here, spec_for(here.traffic, subject, order.setting or SHARE_DEFAULT))
    return stage.run(Lens(direct.Ours(stage.spec), subject))


def correlate(order: Order) -> Mapping[str, float | None]:
    """Pearson's correlation of each signal with the service's tokens/s, over the windows of the trace on its static peak fleet."""
    here = _ground(order)
    stage = Stage(order, here, cases.spec_of(here.traffic, SHARE_DEFAULT))
    policy = policies.build("static-peak", policies.Setup(stage.spec, here.day, cases.START_MS))
    watch = Watch(Baseline(stage.here.specs, {stage.spec.service: policy}), stage.spec)
    stage.run(watch)
    counted = [window for window in watch.windows if window.start_ms >= cases.START_MS]
    load = [window.roles["prefill"].prefill_missed_tps for window in counted]
    return {subject.name: _pearson(load, [subject.look(window.roles[subject.role]) for window in counted]) for subject in SUBJECTS}


def _pearson(one: Sequence[float | None], other: Sequence[float | None]) -> float | None:
    pairs = np.array([(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None])
    if len(pairs) < 2 or not pairs.std(axis=0).all():
        return None
    return round(float(np.corrcoef(pairs.T)[0, 1]), 4)
