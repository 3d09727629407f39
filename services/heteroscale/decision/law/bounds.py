"""Stage 4, bounds: the counts at which every role of the track lies inside its min and max."""

from __future__ import annotations

from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.spec import Schedule
from heteroscale.decision.law import ratio as ratios
from heteroscale.decision.law import schedule as schedules
from heteroscale.decision.law.staged import Bounds, Facts, Staged
from heteroscale.decision.law.tracks import Track


def apply(facts: Facts, value: int) -> Staged:
    """Clamp to the feasible set. A count that was outside it moves back by itself (`bounds`), a wish is cut (`at_bound`)."""
    bounds = facts.bounds
    clamped = bounds.clamp(value)
    if clamped == value:
        return Staged(value)
    by = bounds.low_by if value < bounds.low else bounds.high_by
    outside = bounds.clamp(facts.n) != facts.n and clamped != facts.n
    return Staged(clamped, Reason.BOUNDS if outside else Reason.AT_BOUND, by)


def feasible(track: Track, active: Schedule | None) -> Bounds:
    """The feasible interval of n and which role's bound ends it. Fixed counts leave one.

    Each role's derived count grows with n, so the set has no gaps. Were it empty (validation refuses that), the minimum holds.
    """
    low, high, low_by, high_by = 0, None, "no minimum", "no maximum"
    for role, spec in track.roles.items():
        role_min, role_max, source = spec.min, spec.max, ""
        if active is not None and active.roles is not None and role in active.roles:
            other = active.roles[role]
            role_min = role_min if other.min is None else other.min
            role_max = role_max if other.max is None else other.max
            source = f" (schedule {active.name})"
        least = ratios.lead_for(role_min, role, track.ratio, track.lead)
        most = role_max * track.ratio[track.lead] // track.ratio[role]
        if least > low:
            low, low_by = least, f"{role} min {role_min}{source}"
        if high is None or most < high:
            high, high_by = most, f"{role} max {role_max}{source}"
    high = low if high is None else max(low, high)
    fixed = schedules.fixed_count(active, track)
    if active is not None and fixed is not None:
        n = max(low, min(high, fixed))
        by = f"schedule {active.name}"
        return Bounds(n, n, by, by)
    return Bounds(low, high, low_by, high_by)
