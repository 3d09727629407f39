"""Stage 7, cooldown: rest after a move."""

from __future__ import annotations

from heteroscale.contracts.decisions import Reason
from heteroscale.decision.law.staged import Facts, Staged


def apply(facts: Facts, value: int, alarm_target: int) -> Staged:
    """A scale-out waits for the last scale-out only, what a guard alarm asks for does not wait; a scale-in waits for both."""
    if value == facts.n:
        return Staged(value)
    until_ms = ends_at(facts, outward=value > facts.n)
    if until_ms is None or facts.now_ms >= until_ms:
        return Staged(value)
    base = facts.bounds.clamp(facts.n)
    limited = min(value, max(facts.n, base, alarm_target)) if value > facts.n else max(value, min(facts.n, base))
    if limited == value:
        return Staged(value)
    return Staged(limited, Reason.COOLDOWN, f"cooldown for another {-(-(until_ms - facts.now_ms) // 1000)} s")


def ends_at(facts: Facts, *, outward: bool) -> int | None:
    """When the cooldown of a direction ends; null if nothing has moved yet."""
    state, behavior = facts.state, facts.spec.behavior
    after_out = None if state.last_out_ms is None else state.last_out_ms + behavior.scale_out.cooldown.ms
    if outward:
        return after_out
    after_in = None if state.last_in_ms is None else state.last_in_ms + behavior.scale_in.cooldown.ms
    return max((end for end in (after_out, after_in) if end is not None), default=None)
