"""The law: one window of one service through the ten stages.

This module reads like the page that describes the law; what each stage does stands in the module of its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from heteroscale.contracts.decision_state import LawState, TrackState
from heteroscale.contracts.decisions import Action, Reason
from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Mode
from heteroscale.decision.law import (
    bounds,
    capacity,
    census,
    cooldown,
    drift,
    final,
    guard,
    rate,
    raw,
    schedule,
    soft,
    stabilize,
    transition,
)
from heteroscale.decision.law.census import Scene
from heteroscale.decision.law.soft import SoftEnd
from heteroscale.decision.law.staged import Facts, RoleFacts, Staged
from heteroscale.decision.law.tracks import Track
from heteroscale.decision.law.verdict import HOLD_REASONS, WISH_REASONS, Verdict

STAGES = 10


def judge(scene: Scene, law: LawState) -> tuple[LawState, list[Verdict]]:
    """What each track of the service does in this window, and the state with it done (in shadow mode: remembered only)."""
    verdicts = []
    for track in scene.tracks:
        law, verdict = _judge_drifted(scene, law, track)
        if verdict is None:
            verdict = judge_track(facts_of(scene, law, track), answers=scene.places and not scene.setting.offline)
        law = transition.apply(scene, law, verdict)
        verdicts.append(verdict)
    return law, verdicts


def judge_track(facts: Facts, *, answers: bool) -> Verdict:
    """The ten stages, in order. `answers`: a placement service tells when the draining ones drain."""
    facts = msgspec.structs.replace(facts, state=_observe(facts, answers=answers))
    alarm = guard.judge(facts)
    asked = raw.ask(facts)
    guarded = guard.apply(facts, asked.value, alarm)
    scheduled = schedule.apply(facts, guarded.value)
    bounded = bounds.apply(facts, scheduled.value)
    wish = _wish(facts.n, (asked, guarded, scheduled, bounded))
    rated = rate.apply(facts, bounded.value)
    stabilized = stabilize.apply(facts, rated.value)
    urgent = alarm.target if alarm.reason is not None and not guard.is_waiting(facts) else 0
    cooled = cooldown.apply(facts, stabilized.value, urgent)
    if cooled.reason is not None and alarm.reason is not None and facts.n < cooled.value <= urgent:
        wish = alarm.reason  # demand has to wait, the alarm has not
    capable = capacity.apply(facts, cooled.value)
    softened, end = soft.apply(facts, capable.value, bounded.value if wish in RESTORING else facts.n)
    targets = _targets(facts, softened.value, end)
    grows = any(count > facts.roles[role].wanted for role, count in targets.items())
    shrinks = end is SoftEnd.FINALIZE or any(count < facts.roles[role].wanted for role, count in targets.items())
    finished = final.apply(facts, softened.value, grows=grows, shrinks=shrinks)
    stages = (asked, guarded, scheduled, bounded, rated, stabilized, cooled, capable, softened, finished)
    if finished.reason is not None or not (grows or shrinks):
        end, targets = SoftEnd.NONE, {role: facts.roles[role].wanted for role in targets}
    action, reason = _outcome(facts, stages, wish, end, targets)
    return Verdict(
        track=facts.track,
        n=facts.n,
        value=targets[facts.track.lead],
        targets=targets,
        action=action,
        reason=reason,
        stages=stages,
        recommended=bounded.value,
        state=msgspec.structs.replace(facts.state, alarm_since_ms=guard.alarm_since(facts.state, alarm, facts.now_ms)),
    )


RESTORING = frozenset({Reason.DEMAND, Reason.FALLBACK, Reason.GUARD_MODERATE, Reason.GUARD_SEVERE})


def hold(law: LawState, track: Track, reason: Reason) -> Verdict:
    """Nothing is judged: every count stays, for one reason."""
    wanted = {role: law.roles[role].wanted for role in sorted(track.ratio)}
    n = wanted[track.lead]
    stages = (Staged(n, reason), *(Staged(n) for _ in range(STAGES - 1)))
    state = law.tracks.get(track.lead, TrackState())
    return Verdict(
        track=track,
        n=n,
        value=n,
        targets=wanted,
        action=Action.HOLD,
        reason=reason,
        stages=stages,
        recommended=n,
        state=state,
        frozen_counts=wanted,
    )


def facts_of(scene: Scene, law: LawState, track: Track) -> Facts:
    """All that the stages of one track may look at."""
    state = law.tracks[track.lead]
    active = schedule.active(scene.spec.schedules, scene.now_ms)
    view = law.placement
    return Facts(
        spec=scene.spec,
        track=track,
        window=scene.window,
        now_ms=scene.now_ms,
        mode=scene.mode,
        n=law.roles[track.lead].wanted,
        roles={role: _role_facts(scene, law, role, draining=state.soft is not None) for role in sorted(track.ratio)},
        schedule=active,
        bounds=bounds.feasible(track, active),
        placement=view if view is not None and view.revision == law.commanded_revision else None,
        state=state,
    )


def _role_facts(scene: Scene, law: LawState, role: RoleName, *, draining: bool) -> RoleFacts:
    """While a soft scale-in runs, engines that drain may still call themselves serving: those do not serve."""
    state, counts = law.roles[role], scene.counts(role)
    disguised = max(0, census.placed(law, role).draining - counts.draining) if draining else 0
    return RoleFacts(
        wanted=state.wanted,
        draining=state.draining,
        foreign=state.foreign,
        serving=max(0, counts.serving - disguised),
        silent=counts.silent,
        pending=census.pending(state, scene.now_ms, scene.spec.behavior.pending.timeout.ms),
    )


def _observe(facts: Facts, *, answers: bool) -> TrackState:
    """The track's memory with this window in it, before anything is judged."""
    state = facts.state
    missing_ms = None
    if facts.track.signals and raw.is_silent(facts):
        missing_ms = facts.now_ms if state.missing_since_ms is None else state.missing_since_ms
    return msgspec.structs.replace(
        state,
        guard_step=guard.observe(facts),
        missing_since_ms=missing_ms,
        soft=soft.advance(facts, answers=answers),
    )


def _judge_drifted(scene: Scene, law: LawState, track: Track) -> tuple[LawState, Verdict | None]:
    """A count that people changed is adopted as it is; the law goes on from there in the next window."""
    if scene.mode is Mode.SHADOW:
        return law, None
    n = law.roles[track.lead].wanted
    drifted = drift.judge(scene, law, track.lead)
    if drifted.n is None or drifted.n == n:
        return msgspec.structs.replace(law, roles={**law.roles, track.lead: drifted.state}), None
    value = drifted.n
    targets = {**track.counts(value), track.lead: value}
    stages = (Staged(value, Reason.EXTERNAL_CHANGE, drifted.detail), *(Staged(value) for _ in range(STAGES - 1)))
    verdict = Verdict(
        track=track,
        n=n,
        value=value,
        targets=targets,
        action=Action.SCALE_OUT if value > n else Action.SCALE_IN,
        reason=Reason.EXTERNAL_CHANGE,
        stages=stages,
        recommended=value,
        state=msgspec.structs.replace(law.tracks[track.lead], recommendations=[], guard_step=None),
        adopted=drifted.state,
    )
    return law, verdict


def _targets(facts: Facts, value: int, end: SoftEnd) -> dict[RoleName, int]:
    """Every role's count at `value`: a deficit is commanded up at once, an excess drains unless a soft phase runs already."""
    targets = {}
    waits = facts.state.soft is not None and end is SoftEnd.NONE
    for role, count in facts.track.counts(value).items():
        known = facts.roles[role]
        keeps = count < known.wanted and (waits or end is SoftEnd.FINALIZE)
        ours = count if facts.mode is Mode.SHADOW else max(count, known.foreign)
        targets[role] = known.wanted if keeps else ours
    return targets


def _wish(n: int, stages: Sequence[Staged]) -> Reason:
    """Who set the value that is wished: the last of raw, guard, schedule and bounds that moved it."""
    wish, value = Reason.STEADY, n
    for stage in stages:
        if stage.value not in {value, n} and stage.reason in WISH_REASONS:
            wish = stage.reason
        elif stage.value == n:
            wish = Reason.STEADY
        value = stage.value
    return wish


def _outcome(facts: Facts, stages: Sequence[Staged], wish: Reason, end: SoftEnd, targets: dict[RoleName, int]) -> tuple[Action, Reason]:
    """The action, and its reason: a move's wish, or the first stage that turned the last wish into none."""
    value = targets[facts.track.lead]
    if end is SoftEnd.RESTORE:
        return Action.RESTORE, Reason.GUARD if wish in {Reason.GUARD_MODERATE, Reason.GUARD_SEVERE} else Reason.DEMAND
    if end is SoftEnd.FINALIZE:
        return Action.FINALIZE, Reason.OBSERVED
    if value != facts.n:
        return Action.SCALE_OUT if value > facts.n else Action.SCALE_IN, wish
    differing = [count - facts.roles[role].wanted for role, count in targets.items() if count != facts.roles[role].wanted]
    if differing:
        return Action.SCALE_OUT if max(differing) > 0 else Action.SCALE_IN, Reason.REPAIR
    if stages[-1].reason is not None and stages[-2].value == facts.n:
        return Action.HOLD, stages[-1].reason  # the mode refused a repair or a finalize
    return Action.HOLD, _refusal(facts.n, stages)


def _refusal(n: int, stages: Sequence[Staged]) -> Reason:
    """The first stage that turned a wish into none, counted from the last wish there was; `steady` if none wished."""
    reason: Reason | None = None
    for stage in stages:
        if stage.value != n:
            reason = None
        elif reason is None and stage.reason in HOLD_REASONS:
            reason = stage.reason
    return reason or Reason.STEADY
