"""The state after a verdict: counts, ages, records and the soft phase. In shadow mode only the records move."""

from __future__ import annotations

import msgspec

from heteroscale.contracts.decision_state import Cohort, CountChange, GuardStep, LawState, RoleState, SoftPhase, TrackState
from heteroscale.contracts.decisions import Action, Reason, RoleAfter
from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Mode, ServiceSpec
from heteroscale.decision.law import census, raw, stabilize
from heteroscale.decision.law.census import Scene
from heteroscale.decision.law.verdict import Verdict

GUARDED = frozenset({Reason.GUARD_MODERATE, Reason.GUARD_SEVERE})


def apply(scene: Scene, law: LawState, verdict: Verdict) -> LawState:
    """The state with one track's verdict done."""
    if verdict.frozen_counts is not None:
        return law
    roles = dict(law.roles)
    if verdict.adopted is not None:
        roles[verdict.track.lead] = verdict.adopted
    if scene.mode is not Mode.SHADOW:
        for role, target in verdict.targets.items():
            roles[role] = move(scene, roles[role], role, target, ends=verdict.action is Action.FINALIZE)
    track = _remember(scene, verdict, any(roles[role].draining for role in verdict.targets))
    return msgspec.structs.replace(law, roles=roles, tracks={**law.tracks, verdict.track.lead: track})


def after(scene: Scene, law: LawState, verdict: Verdict) -> dict[RoleName, RoleAfter]:
    """What the verdict leaves commanded, or in shadow mode would; `law` is the state before it."""
    result = {}
    for role, target in sorted(verdict.targets.items()):
        state = law.roles[role]
        if role == verdict.track.lead and verdict.adopted is not None:
            state = verdict.adopted
        draining = draining_after(scene.spec, state, target, ends=verdict.action is Action.FINALIZE)
        result[role] = RoleAfter(replicas=target, draining=draining)
    return result


def draining_after(spec: ServiceSpec, state: RoleState, target: int, *, ends: bool) -> int:
    """What drains once the role moves to `target`: a rise takes from it first, a soft scale-in adds to it."""
    if ends:
        return 0
    if target > state.wanted:
        return max(0, state.draining - (target - state.wanted))
    if target < state.wanted and spec.behavior.scale_in.soft is not None:
        return state.draining + state.wanted - target
    return state.draining


def move(scene: Scene, state: RoleState, role: RoleName, target: int, *, ends: bool) -> RoleState:
    """One role commanded to `target`. What is newly commanded is pending from now; what was restored serves already."""
    draining = draining_after(scene.spec, state, target, ends=ends)
    if target == state.wanted:
        return state if draining == state.draining else msgspec.structs.replace(state, draining=draining)
    grown = target - state.wanted - (state.draining - draining) if target > state.wanted else 0
    pending = [*state.pending, Cohort(since_ms=scene.now_ms, count=grown)] if grown > 0 else state.pending
    return msgspec.structs.replace(
        state,
        commanded=max(0, target - state.foreign),
        draining=draining,
        pending=pending,
        short_since_ms=scene.now_ms if grown > 0 else state.short_since_ms,
        seen_low=scene.observed(role),
        seen_high=census.running(scene, role),
        drift_since_ms=None,
    )


def _remember(scene: Scene, verdict: Verdict, drains: bool) -> TrackState:  # noqa: FBT001 - one fact beside its subject
    """The track's records with this window's verdict."""
    state, now_ms, shadow = verdict.state, scene.now_ms, scene.mode is Mode.SHADOW
    changes = _recent(state, scene)
    if verdict.value != verdict.n:
        changes = [*changes, CountChange(at_ms=now_ms, before=verdict.n, after=verdict.value)]
    counts_as_out = verdict.action is Action.SCALE_OUT and verdict.value > verdict.n
    counts_as_in = verdict.action is Action.SCALE_IN and verdict.value < verdict.n
    stepped = counts_as_out or verdict.action is Action.RESTORE
    guarded = stepped and not shadow and (verdict.reason in GUARDED or verdict.reason is Reason.GUARD)
    return msgspec.structs.replace(
        state,
        changes=changes,
        recommendations=stabilize.remember(state.recommendations, verdict.recommended, now_ms, scene.spec),
        last_out_ms=now_ms if counts_as_out else state.last_out_ms,
        last_in_ms=now_ms if counts_as_in else state.last_in_ms,
        guard_step=GuardStep(at_ms=now_ms, n=verdict.value) if guarded else state.guard_step,
        soft=None if shadow or not drains else (state.soft or SoftPhase(since_ms=now_ms)),
    )


def _recent(state: TrackState, scene: Scene) -> list[CountChange]:
    """Changes that a rate policy or the 30-minute memory may still ask for."""
    behavior = scene.spec.behavior
    periods = [policy.period.ms for policy in (*behavior.scale_out.policies, *behavior.scale_in.policies)]
    keep_ms = max([raw.RECENT_MS, *periods])
    return [change for change in state.changes if change.at_ms > scene.now_ms - keep_ms]
