"""Who wins, fairly: every policy gets the same number of settings on one trace, and is scored with the best of them on another.

Best: the cheapest with TARGET attainment on the trace that settings are chosen on; if none reaches it, the one that attains most.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Final

import msgspec

from heteroscale.simulator.outcome import cases, trial
from heteroscale.simulator.outcome.bench import Bench
from heteroscale.simulator.outcome.trial import Order, Trial

TARGET: Final = 0.99
SETTINGS: Final[Mapping[str, Sequence[float]]] = {
    "heteroscale": (0.6, 0.68, 0.76, 0.84),
    "static-peak": (0.98, 0.99, 0.995, 0.999),
    "schedule": (0.0, 0.1, 0.2, 0.3),
    "hpa-gpu": (0.55, 0.65, 0.75, 0.85),
    "kpa": (0.25, 0.3, 0.35, 0.45),
    "keda-llm-d": (0.2, 0.24, 0.28, 0.32),
    "aibrix-apa": (0.02, 0.05, 0.1, 0.3),
    "kthena": (0.55, 0.65, 0.75, 0.85),
    "clairvoyant": (0.985, 0.99, 0.995, 0.999),
}
OWN_TRACE: Final = frozenset({"static-peak", "clairvoyant"})  # they know the trace they are scored on, by definition
STUDENT: Final = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 %, by degrees of freedom
TUNING_SEED: Final = 1


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be compared. `startups_s` null: those of each case. `hours` cuts every trace."""

    cases: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: int = 3
    startups_s: tuple[float, ...] | None = None
    hours: float | None = None

    def startups(self, case: str) -> tuple[float, ...]:
        """The start-up times a case is played with, the main one first."""
        return self.startups_s or cases.CASES[case].startups_s


class Basis(enum.Enum):
    """Where a row's setting comes from: the best on another trace, the best on this very trace, or the documented default."""

    ELSEWHERE = "elsewhere"
    ITSELF = "itself"
    DEFAULT = "default"


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Mean over seeds and half the width of its 95 % confidence interval (null with one seed)."""

    mean: float
    half: float | None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A policy to be scored on a case with a setting; null is the default."""

    case: str
    policy: str
    startup_s: float
    basis: Basis
    setting: float | None
    chosen_on: str


class Row(Choice, frozen=True, kw_only=True):
    """One policy on one case. Gains are in points of utilisation over static peak at equal attainment."""

    gpu_hours: Interval
    gpu_util: Interval
    gpu_util_static: Interval
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
    """All of it: `rows` are the comparison, `frontier` the runs over the settings with one seed, `scored` those behind the rows."""

    plan: Plan
    target: float
    rows: list[Row]
    frontier: list[Trial]
    scored: list[Trial]


def compare(plan: Plan, bench: Bench) -> Outcome:
    """The frontiers first, then what they and the documentation choose, over the seeds."""
    frontier = bench.run(frontiers(plan), trial.play, "frontiers")
    choices = sorted((one for case in plan.cases for one in _choices(plan, frontier, case)), key=lambda one: _rank(plan, one))
    by_choice = {choice: _orders(plan, choice) for choice in choices}
    orders = list(dict.fromkeys(order for orders in by_choice.values() for order in orders))
    known = dict(zip(orders, bench.run(orders, trial.play, "scores"), strict=True))
    scored = {choice: [known[order] for order in orders] for choice, orders in by_choice.items()}
    bounds = {(one.case, one.startup_s): trials for one, trials in scored.items() if (one.policy, one.basis) == BOUND}
    rows = [row_of(choice, trials, bounds.get((choice.case, choice.startup_s))) for choice, trials in scored.items()]
    return Outcome(plan=plan, target=TARGET, rows=rows, frontier=frontier, scored=list(known.values()))


BOUND: Final = ("clairvoyant", Basis.ITSELF)


def _rank(plan: Plan, choice: Choice) -> tuple[bool, int]:
    """Main start-up times first, so that a run that is interrupted has the main comparison; else as they come."""
    startups = plan.startups(choice.case)
    return (choice.startup_s != startups[0], startups.index(choice.startup_s))


def frontiers(plan: Plan) -> list[Order]:
    """Every policy over its settings with the main start-up time, on the cases and on those that choose their settings."""
    grounds = {(ground, plan.startups(case)[0]): None for case in plan.cases for ground in (case, cases.CASES[case].tuned_on)}
    return [
        _order(plan, case, policy, setting, startup)
        for case, startup in sorted(grounds)
        for policy in plan.policies
        for setting in SETTINGS[policy]
    ]


def _choices(plan: Plan, frontier: Sequence[Trial], case: str) -> list[Choice]:
    """What is scored on a case: each policy as the other trace, this trace and its documentation choose.

    With another start-up time than the main one: what was chosen with the main one, since nobody tunes anew when a start takes longer.
    """
    found = []
    main = plan.startups(case)[0]
    here = [one for one in frontier if one.startup_s == main]
    for policy in plan.policies:
        first = Basis.ITSELF if policy in OWN_TRACE else Basis.ELSEWHERE
        grounds = {first: case if policy in OWN_TRACE else cases.CASES[case].tuned_on, Basis.ITSELF: case}
        for basis, ground in grounds.items():
            setting = choose(here, ground, policy).setting
            found += [
                Choice(case=case, policy=policy, startup_s=startup, basis=basis, setting=setting, chosen_on=ground)
                for startup in (plan.startups(case) if basis is first else (main,))
            ]
        found.append(Choice(case=case, policy=policy, startup_s=main, basis=Basis.DEFAULT, setting=None, chosen_on="documentation"))
    return found


def _orders(plan: Plan, choice: Choice) -> list[Order]:
    """The choice over the seeds; a default with the first alone."""
    seeds = [TUNING_SEED] if choice.basis is Basis.DEFAULT else range(1, plan.seeds + 1)
    return [_order(plan, choice.case, choice.policy, choice.setting, choice.startup_s, seed) for seed in seeds]


def _order(plan: Plan, case: str, policy: str, setting: float | None, startup_s: float, seed: int = TUNING_SEED) -> Order:
    return Order(case=case, policy=policy, setting=setting, seed=seed, startup_s=startup_s, hours=cases.CASES[case].cut(plan.hours))


def choose(trials: Iterable[Trial], case: str, policy: str) -> Trial:
    """The run whose setting is best on `case`."""
    own = [one for one in trials if one.case == case and one.policy == policy]
    enough = [one for one in own if one.slo_attainment >= TARGET]
    if enough:
        return min(enough, key=lambda one: (one.gpu_hours, one.setting or 0.0))
    return max(own, key=lambda one: (one.slo_attainment, -one.gpu_hours))


def row_of(choice: Choice, trials: Sequence[Trial], bounds: Sequence[Trial] | None) -> Row:
    """A policy's figures on a case over the seeds; `bounds` are the clairvoyant's runs of the same seeds."""
    bound = {one.seed: one.gpu_hours for one in bounds or ()}
    return Row(
        **msgspec.structs.asdict(choice),
        gpu_hours=interval([one.gpu_hours for one in trials]),
        gpu_util=interval([one.gpu_util for one in trials]),
        gpu_util_static=interval([one.gpu_util_static for one in trials]),
        gain_points=interval([100 * (one.gpu_util - one.gpu_util_static) for one in trials]),
        slo_attainment=interval([one.slo_attainment for one in trials]),
        minutes_within=interval([one.minutes_within for one in trials]),
        over_clairvoyant=interval([one.gpu_hours / bound[one.seed] for one in trials]) if bound else None,
        direction_changes=interval([float(one.direction_changes) for one in trials]),
        imbalance_minutes=interval([one.imbalance_minutes for one in trials]),
        unplaced_minutes=interval([one.unplaced_minutes for one in trials]),
        cross_s2_pairs=interval([float(one.cross_s2_pairs) for one in trials]),
        util_by_role={
            role: round(fmean([one.gpu_util_by_role.get(role, 0.0) for one in trials]), 4) for role in sorted(trials[0].gpu_util_by_role)
        },
    )


def interval(values: Sequence[float]) -> Interval:
    """Student's interval of the mean."""
    mean = round(fmean(values), 6)
    if len(values) < 2:
        return Interval(mean=mean, half=None)
    return Interval(mean=mean, half=round(STUDENT[min(len(values) - 1, len(STUDENT) - 1)] * stdev(values) / math.sqrt(len(values)), 6))
