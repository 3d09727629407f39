"""Stage 5, rate: how far a count may move within a period."""

from __future__ import annotations

from collections.abc import Sequence

from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.spec import RatePolicy
from heteroscale.decision.law import ratio as ratios
from heteroscale.decision.law.staged import Facts, Staged


def apply(facts: Facts, value: int) -> Staged:
    """Limit a move by the policies of its direction. A count outside its bounds returns to them whatever the policies say."""
    behavior = facts.spec.behavior
    base = facts.bounds.clamp(facts.n)
    if value > facts.n:
        free = max(base, facts.n)
        limited = min(value, max(free, _furthest(facts, behavior.scale_out.policies, behavior.scale_out.select, 1)))
    else:
        free = min(base, facts.n)
        limited = max(value, min(free, _furthest(facts, behavior.scale_in.policies, behavior.scale_in.select, -1)))
    if limited == value:
        return Staged(value)
    return Staged(limited, Reason.RATE_LIMITED, f"rate policies stop at {limited}")


def _furthest(facts: Facts, policies: Sequence[RatePolicy], select: str, sign: int) -> int:
    """The count that the policies reach; n itself where the direction is disabled, no limit without policies."""
    if select == "disabled":
        return facts.n
    if not policies:
        return sign * 2**31
    reached = [sign * (start_of(facts, policy) + sign * step_of(facts, policy, sign)) for policy in policies]
    return sign * (max(reached) if select == "max" else min(reached))


def start_of(facts: Facts, policy: RatePolicy) -> int:
    """The count when the policy's period began: what the oldest change inside it started from."""
    begin_ms = facts.now_ms - policy.period.ms
    return next((change.before for change in facts.state.changes if change.at_ms > begin_ms), facts.n)


def step_of(facts: Facts, policy: RatePolicy, sign: int) -> int:
    """Instances a policy allows in its period: rounded up on the way out, down on the way in, at least one."""
    if policy.type == "pods":
        return max(1, policy.value)
    share = start_of(facts, policy) * policy.value / 100
    return max(1, ratios.ceil(share) if sign > 0 else ratios.floor(share))
