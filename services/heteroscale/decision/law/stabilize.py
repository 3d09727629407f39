"""Stage 6, stabilize: a move waits until every recent recommendation agrees with it."""

from __future__ import annotations

from collections.abc import Sequence

from heteroscale.contracts.decision_state import Recommendation
from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision.law.staged import Facts, Staged


def apply(facts: Facts, value: int) -> Staged:
    """Scale-out to the lowest of its window, scale-in to the highest, over the values after bounds."""
    base = facts.bounds.clamp(facts.n)
    behavior = facts.spec.behavior
    if value > facts.n:
        lowest = min(_recent(facts, behavior.scale_out.stabilization.ms), default=value)
        limited = min(value, max(lowest, base, facts.n))
    else:
        highest = max(_recent(facts, behavior.scale_in.stabilization.ms), default=value)
        limited = max(value, min(highest, base, facts.n))
    if limited == value:
        return Staged(value)
    return Staged(limited, Reason.STABILIZING, f"recommendations of the window reach {limited}")


def remember(record: Sequence[Recommendation], value: int, now_ms: int, spec: ServiceSpec) -> list[Recommendation]:
    """The record with this window's value; older than both windows is dropped, equal neighbours are kept once."""
    behavior = spec.behavior
    keep_ms = max(behavior.scale_out.stabilization.ms, behavior.scale_in.stabilization.ms)
    kept = [past for past in record if past.at_ms > now_ms - keep_ms]
    if kept and kept[-1].n == value:
        kept.pop()
    return [*kept, Recommendation(at_ms=now_ms, n=value)]


def _recent(facts: Facts, window_ms: int) -> list[int]:
    return [past.n for past in facts.state.recommendations if past.at_ms > facts.now_ms - window_ms]
