"""Who wins, fairly: every policy gets the same number of settings on one trace, and is scored with the best of them on another.

Best: the cheapest with TARGET attainment on the trace that settings are chosen on; if none reaches it, the one that attains most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean, stdev
from typing import Final

import msgspec

from heteroscale.simulator.outcome import cases, trial
from heteroscale.simulator.outcome.trial import Order, Trial

TARGET: Final = 0.99
SETTINGS: Final[Mapping[str, Sequence[float]]] = {
    "heteroscale": (0.6, 0.68, 0.76, 0.84),
    "static-peak": (0.98, 0.99, 0.995, 0.999),
    "schedule": (0.0, 0.1, 0.2, 0.3),
    "hpa-gpu": (0.5, 0.65, 0.8, 0.95),
    "kpa": (0.4, 0.55, 0.7, 0.85),
    "keda-llm-d": (0.3, 0.5, 0.7, 0.9),
    "aibrix-apa": (0.2, 0.35, 0.5, 0.65),
    "kthena": (0.4, 0.55, 0.7, 0.85),
    "clairvoyant": (0.985, 0.99, 0.995, 0.999),
}
OWN_TRACE: Final = frozenset({"static-peak", "clairvoyant"})  # they know the trace they are scored on, by definition
STUDENT: Final = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 %, by degrees of freedom


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be compared. `hours` cuts every trace."""

    cases: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: int = 3
    startup_s: float = 120.0
    hours: float | None = None
    jobs: int = 1


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Mean over seeds and half the width of its 95 % confidence interval (null with one seed)."""

    mean: float
    half: float | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One policy on one case with the setting chosen elsewhere. Gains are in points of utilisation over static peak at equal attainment."""

    case: str
    policy: str
    setting: float
    chosen_on: str
    gpu_hours: Interval
    gpu_util: Interval
    gain_points: Interval
    slo_attainment: Interval
    minutes_within: Interval
    over_clairvoyant: Interval | None
    direction_changes: Interval
    imbalance_minutes: Interval
    unplaced_minutes: Interval
    cross_s2_pairs: Interval
    util_by_role: dict[str, float]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """All of it: `frontier` are the runs over the settings, `defaults` those with documented defaults, `rows` the comparison."""

    plan: Plan
    target: float
    rows: list[Row]
    frontier: list[Trial]
    defaults: list[Trial]
    scored: list[Trial]


Report = Callable[[str], None]


def compare(plan: Plan, report: Report) -> Outcome:
    """Run the plan: the frontiers first, then defaults and the chosen settings over the seeds."""
    sources = {case: cases.CASES[case].tuned_on for case in plan.cases}
    grounds = sorted({*plan.cases, *sources.values()})
    grid = [_order(plan, case, policy, setting) for case in grounds for policy in plan.policies for setting in SETTINGS[policy]]
    frontier = run(grid, plan.jobs, report)
    chosen = {
        (case, policy): choose(frontier, case if policy in OWN_TRACE else sources[case], policy)
        for case in plan.cases
        for policy in plan.policies
    }
    plain = [_order(plan, case, policy, None) for case in plan.cases for policy in plan.policies]
    seeded = [
        _order(plan, case, policy, chosen[case, policy].setting, seed)
        for case in plan.cases
        for policy in plan.policies
        for seed in range(1, plan.seeds + 1)
    ]
    known = {_key(one): one for one in frontier}
    fresh = run([one for one in seeded if _order_key(one) not in known], plan.jobs, report)
    known |= {_key(one): one for one in fresh}
    scored = [known[_order_key(one)] for one in seeded]
    defaults = run(plain, plan.jobs, report)
    rows = [row_of(scored, case, policy, chosen[case, policy]) for case in plan.cases for policy in plan.policies]
    return Outcome(plan=plan, target=TARGET, rows=rows, frontier=frontier, defaults=defaults, scored=scored)


def run(orders: Sequence[Order], jobs: int, report: Report) -> list[Trial]:
    """Play the orders, in processes of their own when there may be several; results in the order asked for."""
    if jobs <= 1:
        return [_told(trial.play(order), report) for order in orders]
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        return [_told(done, report) for done in pool.map(trial.play, orders)]


def _told(done: Trial, report: Report) -> Trial:
    setting = "default" if done.setting is None else f"{done.setting:g}"
    figures = f"{done.gpu_hours:,.0f} GPU-hours, {done.slo_attainment:.2%} ({done.wall_s:.1f} s)"
    report(f"{done.case} {done.policy} {setting} seed {done.seed}: {figures}")
    return done


def _order(plan: Plan, case: str, policy: str, setting: float | None, seed: int = 1) -> Order:
    return Order(case=case, policy=policy, setting=setting, seed=seed, startup_s=plan.startup_s, hours=plan.hours)


def _key(one: Trial) -> tuple[str, str, float | None, int]:
    return (one.case, one.policy, one.setting, one.seed)


def _order_key(one: Order) -> tuple[str, str, float | None, int]:
    return (one.case, one.policy, one.setting, one.seed)


def choose(trials: Iterable[Trial], case: str, policy: str) -> Trial:
    """The run whose setting is best on `case`."""
    own = [one for one in trials if one.case == case and one.policy == policy]
    enough = [one for one in own if one.slo_attainment >= TARGET]
    if enough:
        return min(enough, key=lambda one: (one.gpu_hours, one.setting or 0.0))
    return max(own, key=lambda one: (one.slo_attainment, -one.gpu_hours))


def row_of(trials: Sequence[Trial], case: str, policy: str, chosen: Trial) -> Row:
    """A policy's figures on a case over the seeds."""
    own = [one for one in trials if one.case == case and one.policy == policy]
    bound = {one.seed: one.gpu_hours for one in trials if one.case == case and one.policy == "clairvoyant"}
    return Row(
        case=case,
        policy=policy,
        setting=chosen.setting or 0.0,
        chosen_on=chosen.case,
        gpu_hours=interval([one.gpu_hours for one in own]),
        gpu_util=interval([one.gpu_util for one in own]),
        gain_points=interval([100 * (one.gpu_util - one.gpu_util_static) for one in own]),
        slo_attainment=interval([one.slo_attainment for one in own]),
        minutes_within=interval([one.minutes_within for one in own]),
        over_clairvoyant=interval([one.gpu_hours / bound[one.seed] for one in own]) if bound else None,
        direction_changes=interval([float(one.direction_changes) for one in own]),
        imbalance_minutes=interval([one.imbalance_minutes for one in own]),
        unplaced_minutes=interval([one.unplaced_minutes for one in own]),
        cross_s2_pairs=interval([float(one.cross_s2_pairs) for one in own]),
        util_by_role={
            role: round(fmean([one.gpu_util_by_role.get(role, 0.0) for one in own]), 4) for role in sorted(own[0].gpu_util_by_role)
        },
    )


def interval(values: Sequence[float]) -> Interval:
    """Student's interval of the mean."""
    mean = round(fmean(values), 6)
    if len(values) < 2:
        return Interval(mean=mean, half=None)
    return Interval(mean=mean, half=round(STUDENT[min(len(values) - 1, len(STUDENT) - 1)] * stdev(values) / math.sqrt(len(values)), 6))
