"""The study behind the choice of signal: the same law on each of eight signals.

Two questions a signal: how does it move with load (correlation with tokens/s over the windows of a day on a fixed fleet), and what does the
law make of it (the target searched over the same number of values as every policy has). Signals that the law does not know (latencies, and
tokens found in the prefix cache) are put in the place of one that it knows. The share of a prompt that the cache holds is modelled: a
wave around 40 %, six times a day, since no public trace states it.
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
from heteroscale.simulator import direct, policies
from heteroscale.simulator.baseline import Baseline
from heteroscale.simulator.baselines import timed
from heteroscale.simulator.outcome import cases, compare
from heteroscale.simulator.outcome.compare import Plan, Report
from heteroscale.simulator.outcome.trial import SHARE_DEFAULT, Order, Stage, Trial
from heteroscale.simulator.traffic import CACHED, PROMPT, Traffic

WAVES: Final = 6
CACHE_MEAN: Final = 0.4
CACHE_SWING: Final = 0.25
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


SUBJECTS: Final[Sequence[Subject]] = (
    Subject("decode TPS", "decode", Metric.DECODE_TPS, lambda s: s.decode_tps, lambda at: at.decode_tps),
    Subject("prefill TPS, KV-missed", "prefill", Metric.PREFILL_MISSED_TPS, lambda s: s.prefill_missed_tps, lambda at: at.prefill_tps),
    Subject("prefill TPS, cached", "prefill", Metric.PREFILL_TPS, _cached, lambda at: at.prefill_tps * CACHE_MEAN / (1 - CACHE_MEAN)),
    Subject("prefill GPU utilisation", "prefill", Metric.GPU_UTIL, lambda s: s.gpu_util, _one),
    Subject("decode GPU utilisation", "decode", Metric.GPU_UTIL, lambda s: s.gpu_util, _one),
    Subject("decode SM activity", "decode", Metric.SM_ACTIVE, lambda s: s.sm_active, _one),
    Subject("TTFT p95", "prefill", Metric.GPU_UTIL, _p95("ttft_ms", cases.TTFT_S), _one),
    Subject("TBT p95", "decode", Metric.GPU_UTIL, _p95("tbt_ms", cases.TBT_S), _one),
)
HEADER: Final = ("signal", "correlation", "target", "GPU-hours", "GPU util", "within SLO", "turns")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One signal on one case."""

    case: str
    signal: str
    correlation: float | None
    best: Trial


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """All signals."""

    rows: list[Finding]


def cells(row: Finding) -> list[object]:
    """One line of the table."""
    best = row.best
    correlation = "-" if row.correlation is None else f"{row.correlation:+.2f}"
    setting = f"{best.setting or 0:g}"
    return [
        row.signal,
        correlation,
        setting,
        f"{best.gpu_hours:,.0f}",
        f"{best.gpu_util:.3f}",
        f"{best.slo_attainment:.2%}",
        best.direction_changes,
    ]


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


def study(plan: Plan, report: Report) -> Study:
    """Every signal on every case of the plan."""
    rows = []
    for case in plan.cases:
        correlations = correlate(plan, case)
        for subject in SUBJECTS:
            trials = [_trial(plan, case, subject, share) for share in compare.SETTINGS[policies.OURS]]
            best = compare.choose(trials, case, subject.name)
            report(f"{case} {subject.name}: {best.gpu_hours:,.0f} GPU-hours, {best.slo_attainment:.2%}")
            rows.append(Finding(case=case, signal=subject.name, correlation=correlations[subject.name], best=best))
    return Study(rows=rows)


def cached(trace: Traffic) -> Traffic:
    """The trace with prompts that the prefix cache holds in part, on top of those it states; what is missed stays the same."""
    middle = (trace.edges_s[:-1] + trace.edges_s[1:]) / 2
    share = CACHE_MEAN + CACHE_SWING * np.sin(2 * np.pi * WAVES * middle / 86_400.0)
    totals = trace.totals.copy()
    missed = totals[:, PROMPT] - totals[:, CACHED]
    totals[:, PROMPT] = missed / (1 - share)
    totals[:, CACHED] = totals[:, PROMPT] - missed
    return Traffic(trace.name, trace.edges_s, totals, trace.prompt_cv, trace.smooth)


def _stage(plan: Plan, case: str, order: Order, spec: Callable[[Traffic], ServiceSpec]) -> Stage:
    trace = cached(cases.scaled(cases.CASES[case].traffic()))
    if plan.hours is not None:
        trace = trace.until(plan.hours * 3600)
    return Stage(order, trace, None, spec(trace))


def spec_for(trace: Traffic, subject: Subject, share: float) -> ServiceSpec:
    """The case's spec on this signal alone, without guards: what the signal can do by itself."""
    spec = cases.spec_of(trace, share)
    target = share * subject.scale(cases.reference(trace))
    return msgspec.structs.replace(spec, signals=[SignalSpec(metric=subject.metric, role=subject.role, target=target)], guards=[])


def _trial(plan: Plan, case: str, subject: Subject, share: float) -> Trial:
    order = Order(case=case, policy=subject.name, setting=share, startup_s=plan.startup_s, hours=plan.hours)
    stage = _stage(plan, case, order, lambda trace: spec_for(trace, subject, share))
    return stage.run(Lens(direct.Ours(stage.here.specs[stage.spec.service]), subject))


def correlate(plan: Plan, case: str) -> Mapping[str, float | None]:
    """Pearson's correlation of each signal with the service's tokens/s, over the windows of the trace on its static peak fleet."""
    order = Order(case=case, policy="static-peak", startup_s=plan.startup_s, hours=plan.hours)
    stage = _stage(plan, case, order, lambda trace: cases.spec_of(trace, SHARE_DEFAULT))
    spec = stage.here.specs[stage.spec.service]
    policy = policies.build("static-peak", policies.Setup(spec, stage.day(), cases.START_MS))
    assert isinstance(policy, timed.Fixed)  # noqa: S101 - that is what static-peak is
    watch = Watch(Baseline(stage.here.specs, {spec.service: policy}), spec)
    stage.run(watch)
    counted = [window for window in watch.windows if window.start_ms >= cases.START_MS]
    load = [window.roles["prefill"].prefill_missed_tps for window in counted]
    return {subject.name: _pearson(load, [subject.look(window.roles[subject.role]) for window in counted]) for subject in SUBJECTS}


def _pearson(one: Sequence[float | None], other: Sequence[float | None]) -> float | None:
    pairs = np.array([(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None])
    if len(pairs) < 2 or not pairs.std(axis=0).all():
        return None
    return round(float(np.corrcoef(pairs.T)[0, 1]), 4)
