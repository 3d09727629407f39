"""Stage 1, raw: how many instances the demand asks for, by the largest of all signals."""

from __future__ import annotations

import msgspec

from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.signals import RoleSignal
from heteroscale.contracts.spec import Metric, SignalSpec
from heteroscale.decision.law import ratio as ratios
from heteroscale.decision.law import schedule
from heteroscale.decision.law.figures import plain
from heteroscale.decision.law.ratio import EPSILON
from heteroscale.decision.law.staged import Facts, RoleFacts, Staged

RECENT_MS = 30 * 60_000
MEANS = frozenset({Metric.GPU_UTIL, Metric.SM_ACTIVE, Metric.KV_USAGE})
NOTHING = RoleFacts(wanted=0, draining=0, foreign=0, serving=0, silent=0, pending=0)


class Reading(msgspec.Struct, frozen=True):
    """One signal in one window, in instances of the lead. `down` null: no scale-in on this signal, for `refusal`.

    `up` and `down` are null without data. `demand` is in instances of the signal's own role.
    """

    demand: float | None
    up: float | None
    down: float | None
    refusal: Reason | None
    detail: str


def ask(facts: Facts) -> Staged:
    """The count that demand asks for, before any limit."""
    if not facts.track.signals:
        return Staged(facts.n, detail="no signal")
    if is_silent(facts):
        return _fall_back(facts)
    readings = [read(facts, signal) for signal in facts.track.signals]
    detail = "; ".join(reading.detail for reading in readings)
    up = max((reading.up for reading in readings if reading.up is not None), default=None)
    if up is not None and up > facts.n * (1 + facts.spec.behavior.scale_out.tolerance.fraction) + EPSILON:
        return Staged(ratios.ceil(up), Reason.DEMAND, detail)
    return _scale_in(facts, readings, detail)


def _scale_in(facts: Facts, readings: list[Reading], detail: str) -> Staged:
    """Only when all signals agree, have data, and nothing that is pending hides demand."""
    if facts.n == 0:
        return Staged(0, detail=detail)
    known = [reading.up for reading in readings if reading.up is not None]
    threshold = facts.n * (1 - facts.spec.behavior.scale_in.tolerance.fraction) - EPSILON
    if known and max(known) >= threshold:
        return Staged(facts.n, detail=detail)
    if any(reading.refusal is Reason.MISSING_DATA for reading in readings):
        return Staged(facts.n, Reason.MISSING_DATA, detail)
    asked = max(reading.down for reading in readings if reading.down is not None)
    if asked >= threshold:
        return Staged(facts.n, Reason.MISSING_DATA, detail)
    hidden = facts.lead.pending > 0 and asked > facts.lead.serving + EPSILON
    if hidden or any(reading.refusal is Reason.PENDING for reading in readings):
        return Staged(facts.n, Reason.PENDING, detail)
    return Staged(ratios.ceil(asked), Reason.DEMAND, detail)


def read(facts: Facts, signal: SignalSpec) -> Reading:
    """One signal: demand over target and weight, its safety margin for scale-in, both carried to the lead."""
    role = signal.role or facts.track.lead
    seen = facts.window.roles.get(role)
    known = facts.roles.get(role, NOTHING)
    value = None if seen is None else _demand(seen, signal.metric, known.serving)
    if seen is None or value is None:
        return Reading(None, None, None, Reason.MISSING_DATA, f"{signal.metric.value} of {role} unknown")
    weight = mean_weight(facts, role, seen)
    target = signal.target or 1.0
    d = value / (target * weight)
    up = carry(facts, role, d)
    detail = f"{signal.metric.value} of {role} {plain(value)} / ({plain(target)} x {weight:g}) = {d:.3f} instances"
    if role != facts.track.lead:
        detail += f", {plain(up)} of {facts.track.lead}"
    coverage = seen.coverage
    if coverage is None or coverage < signal.min_coverage - EPSILON:
        return Reading(d, up, None, Reason.MISSING_DATA, f"{detail}, coverage {_percent(coverage)}")
    unseen = (1 - coverage) * (known.serving + known.silent)
    if unseen > EPSILON:
        detail += f" + {unseen:.3f} unseen"
    hidden = known.pending > 0 and d + unseen > known.serving + EPSILON
    return Reading(d, up, carry(facts, role, d + unseen), Reason.PENDING if hidden else None, detail)


def carry(facts: Facts, role: str, d: float) -> float:
    """Instances of the lead that `d` instances of `role` ask for: the smallest n whose derived count suffices.

    An excess inside the scale-out tolerance of what the role has asks for no more than there is: carried to whole counts
    first, 2.01 of 2 would look like half as much again, and a load that rests inside its tolerance would move.
    """
    track = facts.track
    if role == track.lead:
        return d
    n = ratios.lead_for(ratios.ceil(d), role, track.ratio, track.lead)
    has = track.counts(facts.n)[role]
    inside = d <= has * (1 + facts.spec.behavior.scale_out.tolerance.fraction) + EPSILON
    return float(min(n, facts.n) if inside else n)


def mean_weight(facts: Facts, role: str, seen: RoleSignal) -> float:
    """Mean throughput weight of the serving instances; a type that the spec does not name counts as 1."""
    weights = {choice.type: choice.weight for choice in facts.spec.roles[role].gpu_types} if role in facts.spec.roles else {}
    typed = [(by.serving, weights.get(name, 1.0)) for name, by in sorted(seen.by_gpu_type.items())]
    serving = sum(count for count, _ in typed)
    rest = max(0, seen.instances.serving - serving)
    total = serving + rest
    if total == 0:
        return 1.0
    mean = (sum(count * weight for count, weight in typed) + rest) / total
    return mean if mean > 0 else 1.0


def _demand(seen: RoleSignal, metric: Metric, serving: int) -> float | None:
    value: float | None = getattr(seen, metric.value)
    if value is None or metric not in MEANS:
        return value
    return value * serving


def is_silent(facts: Facts) -> bool:
    """Nothing serves and nothing was heard though something should run. With n = 0 nothing is known, not missing."""
    if facts.n == 0 and not any(facts.roles[role].wanted for role in facts.roles):
        return False
    for signal in facts.track.signals:
        seen = facts.window.roles.get(signal.role or facts.track.lead)
        if seen is None:
            continue
        heard = seen.instances.loading + seen.instances.serving + seen.instances.draining
        if heard or getattr(seen, signal.metric.value) is not None:
            return False
    return True


def _fall_back(facts: Facts) -> Staged:
    since_ms = facts.state.missing_since_ms
    missing = facts.spec.missing_data
    waited_ms = 0 if since_ms is None else facts.now_ms - since_ms
    if waited_ms >= missing.escalate_after.ms:
        fixed = schedule.fixed_count(facts.schedule, facts.track)
        if missing.fallback == "schedule" and fixed is not None and fixed != facts.n:
            return Staged(fixed, Reason.FALLBACK, "nothing heard: the active schedule's count")
        recent = recent_high(facts)
        if missing.fallback == "max-recent" and recent > facts.n:
            return Staged(recent, Reason.FALLBACK, "nothing heard: the highest count of the last 30 minutes")
    return Staged(facts.n, Reason.MISSING_DATA, f"nothing heard for {waited_ms // 1000} s")


def recent_high(facts: Facts) -> int:
    """The highest n in force during the last 30 minutes."""
    held = (change.before for change in facts.state.changes if change.at_ms > facts.now_ms - RECENT_MS)
    return max(facts.n, *held, 0)


def _percent(fraction: float | None) -> str:
    return "unknown" if fraction is None else f"{fraction:.0%}"
