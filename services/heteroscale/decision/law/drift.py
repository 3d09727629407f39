"""External changes: a person added or removed instances; the count follows them, never fights them."""

from __future__ import annotations

import msgspec

from heteroscale.contracts.decision_state import LawState, RoleState
from heteroscale.contracts.names import RoleName
from heteroscale.decision.law import census
from heteroscale.decision.law.census import Scene


class Drifted(msgspec.Struct, frozen=True):
    """A role after the judgement; `n` is the adopted count, null if nothing is to be adopted."""

    state: RoleState
    n: int | None = None
    detail: str = ""


def judge(scene: Scene, law: LawState, role: RoleName) -> Drifted:
    """Adopt what is observed when it left the command by itself.

    Short for longer than `pending.timeout` with no placement in progress: downward. Without a placement service: in either
    direction, after one full window. Downward never when a window since the fall counted a silent instance, nor when nobody of
    the role is heard and the newest Placement lists some that run: telemetry is absent then, and a placement service is told of
    instances that end.
    """
    state, present = law.roles[role], census.running(scene, role)
    timeout_ms = scene.spec.behavior.pending.timeout.ms
    overdue = state.short_since_ms is not None and scene.now_ms - state.short_since_ms > timeout_ms
    falls = present < state.wanted and not state.fall_silent and not _is_unheard(scene, law, role)
    if overdue and falls and not census.in_progress(scene, law):
        return _adopt(scene, role, state, present, "for longer than the time-out")
    if scene.places:
        return Drifted(state)
    return _judge_unplaced(scene, role, state)


def _is_unheard(scene: Scene, law: LawState, role: RoleName) -> bool:
    """Whether a role runs by its Placement and not one instance of it is heard."""
    return scene.places and scene.observed(role) == 0 and census.placed(law, role).existing > 0


def _judge_unplaced(scene: Scene, role: RoleName, state: RoleState) -> Drifted:
    """A rise above, or a fall below, all that our own commands could explain.

    Over files without Placements a fall waits for the time-out like any other: what they show may be another loop's answer.
    """
    present, observed = census.running(scene, role), scene.observed(role)
    low = observed if state.seen_low is None else state.seen_low
    high = present if state.seen_high is None else state.seen_high
    ceiling, floor = max(state.wanted + state.draining, low), min(state.wanted, high)
    rises = observed > ceiling
    falls = present < floor and not state.fall_silent and scene.spec.placement == "none"
    if not rises and not falls:
        low, high = min(low, observed), max(high, present)
        return Drifted(msgspec.structs.replace(state, seen_low=low, seen_high=high, drift_since_ms=None))
    since_ms = scene.now_ms if state.drift_since_ms is None else state.drift_since_ms
    if scene.now_ms - since_ms < scene.spec.window.size.ms:
        return Drifted(msgspec.structs.replace(state, drift_since_ms=since_ms))
    n = max(0, observed - state.draining) if rises else max(0, state.wanted - (floor - present))
    return _adopt(scene, role, state, n, "for one full window")


def _adopt(scene: Scene, role: RoleName, state: RoleState, n: int, how_long: str) -> Drifted:
    calm = msgspec.structs.replace(
        state,
        commanded=max(0, n - state.foreign),
        seen_low=scene.observed(role),
        seen_high=census.running(scene, role),
        short_since_ms=None,
        drift_since_ms=None,
    )
    return Drifted(calm, n, f"{census.running(scene, role)} {role} run, {state.wanted} commanded, {how_long}")
