"""Stage 8, capacity: what placement cannot find is not asked for again."""

from __future__ import annotations

from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.spec import Mode
from heteroscale.decision.law.staged import Facts, Staged


def apply(facts: Facts, value: int) -> Staged:
    """While the commanded revision is short, the count is not raised, or only until what is missing holds a whole unit."""
    short = shortfall(facts)
    if value <= facts.n or not short or facts.mode is Mode.SHADOW:
        return Staged(value)
    limited = min(value, smallest_with_unit(facts, short))
    if limited == value:
        return Staged(value)
    missing = ", ".join(f"{count} {role}" for role, count in sorted(short.items()))
    return Staged(limited, Reason.CAPACITY_LIMITED, f"placement is short of {missing}")


def shortfall(facts: Facts) -> dict[str, int]:
    """What placement reports short of the track's roles; nothing unless it speaks of the commanded revision."""
    if facts.placement is None:
        return {}
    return {role: count for role, count in sorted(facts.placement.shortfall.items()) if role in facts.track.ratio and count > 0}


def smallest_with_unit(facts: Facts, short: dict[str, int]) -> int:
    """The smallest count, from n up, at which the shortfall would hold one unit of the ratio (groups open in whole units)."""
    track = facts.track
    now = track.counts(facts.n)
    for n in range(facts.n, facts.n + sum(track.ratio.values()) + 1):
        counts = track.counts(n)
        if all(short.get(role, 0) + counts[role] - now[role] >= share for role, share in track.ratio.items()):
            return n
    return facts.n + track.ratio[track.lead]
