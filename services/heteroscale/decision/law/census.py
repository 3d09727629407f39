"""What runs, as far as a window and the newest Placement tell: adoption, foreign instances, pending ones and their ages."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from heteroscale.contracts.decision_state import Cohort, LawState, PlacedCounts, Recommendation, RoleState, TrackState
from heteroscale.contracts.names import RoleName
from heteroscale.contracts.signals import InstanceCounts, SignalWindow
from heteroscale.contracts.spec import Mode, ServiceSpec
from heteroscale.decision.law.setting import Setting
from heteroscale.decision.law.tracks import Track

NOBODY = InstanceCounts()
UNPLACED = PlacedCounts()


class Scene(msgspec.Struct, frozen=True):
    """One window, the spec with its tracks and the mode it is judged under, and where the law runs."""

    spec: ServiceSpec
    window: SignalWindow
    mode: Mode
    setting: Setting
    tracks: tuple[Track, ...]

    @property
    def now_ms(self) -> int:
        """The decision's only clock: the window's end."""
        return self.window.end_ms

    def counts(self, role: RoleName) -> InstanceCounts:
        """The window's instances of a role."""
        seen = self.window.roles.get(role)
        return NOBODY if seen is None else seen.instances

    def observed(self, role: RoleName) -> int:
        """All instances of a role, silent ones too."""
        counts = self.counts(role)
        return counts.serving + counts.loading + counts.silent + counts.draining

    @property
    def places(self) -> bool:
        """Whether a placement service stands between commands and instances."""
        return self.spec.placement != "none" and self.setting.placements

    @property
    def silence(self) -> bool:
        """Whether some instance has fallen silent."""
        return any(seen.instances.silent for seen in self.window.roles.values())


def take(scene: Scene, law: LawState) -> LawState:
    """The state with this window's counts in it. External changes of a lead are for `drift` to judge."""
    law = _adopt_unknown(scene, law)
    if scene.mode is Mode.SHADOW:
        roles = {role: _mirror(scene, law, role) for role in sorted(scene.spec.roles)}
    else:
        roles = {role: _judge_foreign(scene, law, role) for role in sorted(scene.spec.roles)}
    return msgspec.structs.replace(law, roles={role: _age(scene, state, role) for role, state in roles.items()})


def running(scene: Scene, role: RoleName) -> int:
    """Serving, loading and silent instances of a role."""
    counts = scene.counts(role)
    return counts.serving + counts.loading + counts.silent


def placed(law: LawState, role: RoleName) -> PlacedCounts:
    """What the newest Placement lists of a role."""
    return UNPLACED if law.placement is None else law.placement.roles.get(role, UNPLACED)


def is_moving(law: LawState) -> bool:
    """Whether the newest Placement has something starting, draining or stopping."""
    return law.placement is not None and any(counts.moving for counts in law.placement.roles.values())


def in_progress(scene: Scene, law: LawState) -> bool:
    """Whether a placement still works on the last command, so that what is short may yet come."""
    if not scene.places:
        return False
    if law.placement is None:
        return law.commanded_revision > 0
    behind = law.placement.revision != law.commanded_revision
    return behind or is_moving(law) or any(law.placement.shortfall.values())


def _adopt_unknown(scene: Scene, law: LawState) -> LawState:
    """A new or lost service adopts what runs; a role that the spec has gained does too."""
    unknown = [role for role in sorted(scene.spec.roles) if role not in law.roles]
    roles = dict(law.roles)
    for role in unknown:
        total = max(running(scene, role), placed(law, role).existing)
        known = law.placement is not None or scene.setting.cold_start
        foreign = max(0, total - placed(law, role).listed) if scene.places and known else 0
        roles[role] = RoleState(
            commanded=total - foreign,
            foreign=foreign,
            seen_low=scene.observed(role),
            seen_high=running(scene, role),
        )
    if law.adopted_at_ms is not None:
        return msgspec.structs.replace(law, roles=roles, tracks=_with_tracks(scene, law, roles))
    law = msgspec.structs.replace(
        law,
        roles=roles,
        tracks=_with_tracks(scene, law, roles),
        adopted_at_ms=scene.now_ms,
        cold_until_ms=scene.now_ms + scene.spec.window.size.ms if scene.setting.cold_start else None,
    )
    if law.placement is None or scene.setting.cold_start:
        return law
    view = law.placement
    revision = max(law.revision, view.revision)
    return msgspec.structs.replace(law, revision=revision, commanded_revision=view.revision, command_id=view.command_id)


def _with_tracks(scene: Scene, law: LawState, roles: Mapping[RoleName, RoleState]) -> dict[RoleName, TrackState]:
    """Tracks of the spec; a new one begins its record with the count that was adopted, and keeps the cooldowns there were."""
    past = list(law.tracks.values())
    out_ms = max((track.last_out_ms for track in past if track.last_out_ms is not None), default=None)
    in_ms = max((track.last_in_ms for track in past if track.last_in_ms is not None), default=None)
    tracks = {}
    for track in scene.tracks:
        begin = Recommendation(at_ms=scene.now_ms, n=roles[track.lead].wanted)
        tracks[track.lead] = law.tracks.get(
            track.lead,
            TrackState(recommendations=[begin], last_out_ms=out_ms, last_in_ms=in_ms),
        )
    return tracks


def _mirror(scene: Scene, law: LawState, role: RoleName) -> RoleState:
    """Shadow mode commands nothing: the count is what runs, whoever started it."""
    state, total = law.roles[role], running(scene, role)
    known = scene.places and (law.placement is not None or scene.setting.cold_start)
    foreign = max(0, total - placed(law, role).listed) if known else 0
    return msgspec.structs.replace(state, commanded=total - foreign, foreign=foreign, draining=0)


def _judge_foreign(scene: Scene, law: LawState, role: RoleName) -> RoleState:
    """Instances that we did not place, judged only while the Placement rests and nothing is silent."""
    state = law.roles[role]
    if not scene.places:
        return state if state.foreign == 0 else msgspec.structs.replace(state, commanded=state.wanted, foreign=0)
    unknown = law.placement is None and (law.commanded_revision > 0 or not scene.setting.cold_start)
    if unknown or is_moving(law) or scene.silence or _is_relisted(scene, law):
        return state
    foreign = max(0, scene.observed(role) - placed(law, role).listed)
    return state if foreign == state.foreign else msgspec.structs.replace(state, foreign=foreign)


def _is_relisted(scene: Scene, law: LawState) -> bool:
    """Whether the Placement's list is newer than what this window can know.

    A window closes a while after its end, and an engine that has gone still counts as serving until it is `silence` old. So a
    window right after a change of the list may count what is not listed any more, which nobody else started.
    """
    if law.relisted_after_ms is None or scene.setting.offline:
        return False
    spans = scene.spec.window
    lag_ms = spans.silence.ms + spans.interval.ms + spans.allowed_lateness.ms + spans.hop.ms
    return scene.now_ms <= law.relisted_after_ms + lag_ms


def _age(scene: Scene, state: RoleState, role: RoleName) -> RoleState:
    """Ages of what is pending, since when the role is short, and the bounds of what was observed."""
    counts, present = scene.counts(role), running(scene, role)
    heard_all = present - counts.silent >= state.wanted
    short = present < state.wanted
    return msgspec.structs.replace(
        state,
        pending=cohorts(state.pending, max(0, state.wanted - counts.serving - counts.silent), scene.now_ms),
        short_since_ms=(scene.now_ms if state.short_since_ms is None else state.short_since_ms) if short else None,
        fall_since_ms=None if heard_all else (scene.now_ms if state.fall_since_ms is None else state.fall_since_ms),
        fall_silent=not heard_all and (state.fall_silent or counts.silent > 0),
    )


def cohorts(known: list[Cohort], short: int, now_ms: int) -> list[Cohort]:
    """The pending ones by age: what is newly short is born now, what serves is taken from the oldest."""
    surplus = sum(cohort.count for cohort in known) - short
    if surplus == 0:
        return known
    if surplus < 0:
        return [*known, Cohort(since_ms=now_ms, count=-surplus)]
    kept = []
    for cohort in known:
        taken = min(surplus, cohort.count)
        surplus -= taken
        if cohort.count > taken:
            kept.append(Cohort(since_ms=cohort.since_ms, count=cohort.count - taken))
    return kept


def pending(state: RoleState, now_ms: int, timeout_ms: int) -> int:
    """Commanded, not serving, and not for longer than the time-out."""
    return sum(cohort.count for cohort in state.pending if now_ms - cohort.since_ms <= timeout_ms)
