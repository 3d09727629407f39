"""Stage 2, guard: latency as stepwise feedback. It adds capacity or blocks a scale-in, and waits for what it has added."""

from __future__ import annotations

import msgspec

from heteroscale.contracts.decision_state import GuardStep, TrackState
from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.signals import Quantiles
from heteroscale.contracts.spec import GuardSpec
from heteroscale.decision.law import ratio as ratios
from heteroscale.decision.law.figures import plain
from heteroscale.decision.law.staged import Facts, Staged

OBSERVATIONS_MIN = 50
HYSTERESIS = 0.9


class Alarm(msgspec.Struct, frozen=True):
    """The most demanding guard of a window. `reason` null: nothing at its threshold, though a scale-in may be blocked."""

    target: int
    reason: Reason | None
    blocks: bool
    detail: str


def judge(facts: Facts) -> Alarm:
    """Every guard against its role, or the worst one; the largest step wins, severe before moderate."""
    target, reason, blocks, details = 0, None, False, []
    x = facts.lead.serving
    for guard in facts.track.guards:
        worst = worst_ms(facts, guard)
        if worst is None:
            continue
        if worst < guard.moderate.ms * HYSTERESIS - 1e-9:
            continue
        blocks = True
        severe, moderate = worst >= guard.severe.ms - 1e-9, worst >= guard.moderate.ms - 1e-9
        details.append(f"{guard.latency} {guard.quantile} {plain(worst)} ms")
        if not moderate:
            continue
        step = guard.severe_step if severe else guard.moderate_step
        asked = max(ratios.ceil(x * (1 + step.fraction)), x + 1)
        if asked > target or (asked == target and severe):
            target, reason = asked, Reason.GUARD_SEVERE if severe else Reason.GUARD_MODERATE
    return Alarm(target, reason, blocks, "; ".join(details))


def apply(facts: Facts, value: int, alarm: Alarm) -> Staged:
    """The count after raw and guards."""
    if alarm.reason is None:
        if alarm.blocks and value < facts.n:
            return Staged(facts.n, Reason.GUARD_BLOCKS, f"{alarm.detail}, at 90 % of its threshold or above")
        return Staged(value)
    base = max(value, facts.n)
    if alarm.target <= base:
        waits = base == facts.n
        return Staged(base, Reason.GUARD_WAITS_FOR_PENDING if waits else None, f"{alarm.detail}; what is pending covers the step")
    if is_waiting(facts):
        return Staged(base, Reason.GUARD_WAITS_FOR_PENDING, f"{alarm.detail}; the last step has not served a full window")
    return Staged(alarm.target, alarm.reason, f"{alarm.detail}: {facts.lead.serving} serving to {alarm.target}")


def is_waiting(facts: Facts) -> bool:
    """Whether the last step has yet to serve one full window; a step that timed out is waited for no longer."""
    step = facts.state.guard_step
    if step is None or facts.now_ms - step.at_ms > facts.spec.behavior.pending.timeout.ms:
        return False
    return step.served_at_ms is None or facts.window.start_ms < step.served_at_ms


def observe(facts: Facts) -> GuardStep | None:
    """The last step, with the time from which all of it serves; forgotten once the count is below it again."""
    step = facts.state.guard_step
    if step is None or facts.n < step.n:
        return None
    if step.served_at_ms is None and facts.lead.serving >= step.n:
        return msgspec.structs.replace(step, served_at_ms=facts.now_ms)
    return step


def alarm_since(state: TrackState, alarm: Alarm, now_ms: int) -> int | None:
    """When the running alarm episode began; null without an alarm."""
    if alarm.reason is None:
        return None
    return now_ms if state.alarm_since_ms is None else state.alarm_since_ms


def worst_ms(facts: Facts, guard: GuardSpec) -> float | None:
    """The guarded quantile in milliseconds; null with fewer than 50 observations everywhere."""
    roles = [guard.role] if guard.role is not None else sorted(facts.window.roles)
    values = []
    for role in roles:
        seen = facts.window.roles.get(role)
        quantiles: Quantiles | None = None if seen is None else getattr(seen, f"{guard.latency}_ms")
        if quantiles is not None and quantiles.count >= OBSERVATIONS_MIN:
            values.append(float(getattr(quantiles, guard.quantile)))
    return max(values, default=None)
