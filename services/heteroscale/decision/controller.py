"""One service as a pure step: `(state, event) -> (state', effects)`.

Events are SignalWindow, Placement (dry-run answers too), ServiceSpec and Tombstone. A window of a service with a spec gives
exactly one Decision, the DecisionState after it, and at most one Command. Everything else only changes the state.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decision_state import DecisionState, LawState
from heteroscale.contracts.decisions import Action, Decision, Reason, RoleAfter, WindowSpan
from heteroscale.contracts.names import DecisionId, RoleName, ServiceName, decision_id
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import Mode, ServiceSpec
from heteroscale.decision import commands, report
from heteroscale.decision.commands import Stamp
from heteroscale.decision.law import census, final, law, placed, transition
from heteroscale.decision.law.census import Scene
from heteroscale.decision.law.setting import LIVE, Setting
from heteroscale.decision.law.tracks import tracks_of
from heteroscale.decision.law.verdict import Verdict

POLICY_VERSION = 2


class Tombstone(msgspec.Struct, frozen=True):
    """The service was let go."""

    service: ServiceName


Message: TypeAlias = SignalWindow | Placement | ServiceSpec | Tombstone


class Source(msgspec.Struct, frozen=True):
    """Where an event came from: `topic-partition` and the next offset after it."""

    at: str
    next_offset: int


class ServiceState(msgspec.Struct, frozen=True):
    """All that is known of one service between events. `inputs` maps `topic-partition` to the next offset not yet included."""

    service: ServiceName
    spec: ServiceSpec | None = None
    law: LawState = LawState()
    decision: Decision | None = None
    command: Command | None = None
    recommendation: Command | None = None
    inputs: dict[str, int] = {}

    def record(self) -> DecisionState:
        """The durable form. The spec is not in it: specs.v1 has it."""
        return DecisionState(
            service=self.service,
            inputs=self.inputs,
            law=self.law,
            decision=self.decision,
            command=self.command,
            recommendation=self.recommendation,
        )


def from_record(record: DecisionState, spec: ServiceSpec | None) -> ServiceState:
    """The state that a record holds."""
    return ServiceState(record.service, spec, record.law, record.decision, record.command, record.recommendation, record.inputs)


class Effects(msgspec.Struct, frozen=True):
    """What is to be published, in this order: the state after, then the decision, then the command (real or dry run)."""

    state: DecisionState | None = None
    decision: Decision | None = None
    command: Command | None = None


NOTHING = Effects()


def step(
    state: ServiceState,
    event: Message,
    source: Source | None = None,
    setting: Setting = LIVE,
) -> tuple[ServiceState, Effects]:
    """One event. An event whose source the state includes already changes nothing."""
    if source is not None:
        if state.inputs.get(source.at, 0) > source.next_offset - 1:
            return state, NOTHING
        state = msgspec.structs.replace(state, inputs={**state.inputs, source.at: source.next_offset})
    match event:
        case SignalWindow():
            return _step_window(state, event, setting)
        case Placement():
            return msgspec.structs.replace(state, law=placed.fold(state.law, event)), NOTHING
        case ServiceSpec():
            return msgspec.structs.replace(state, spec=event), NOTHING
        case Tombstone():
            return ServiceState(state.service, inputs=state.inputs), NOTHING


def _step_window(state: ServiceState, window: SignalWindow, setting: Setting) -> tuple[ServiceState, Effects]:
    """Decide one window; none for a service without a spec, or a window whose end was decided already."""
    spec = state.spec
    if spec is None or window.end_ms <= state.law.window_end_ms:
        return state, NOTHING
    scene = Scene(spec, window, final.mode_at(spec, window.end_ms), setting, tracks_of(spec))
    judged = _judge(scene, state.law)
    decided = msgspec.structs.replace(judged.decided, window_end_ms=window.end_ms)
    revision = spec.revision if spec.revision is not None else window.spec_revision
    identity = decision_id(window.service, window.end_ms, revision, POLICY_VERSION)
    speaker = report.summary(judged.verdicts)
    after = {role: count for verdict in judged.verdicts for role, count in transition.after(scene, judged.found, verdict).items()}
    draft = _Draft(identity, speaker.action, after, judged.again)
    decided, command = _command(scene, decided, state.command, draft)
    decided = report.count(scene, decided, judged.verdicts)
    decision = Decision(
        id=identity,
        service=window.service,
        fleet=spec.fleet,
        at_ms=window.end_ms,
        window=WindowSpan(start_ms=window.start_ms, end_ms=window.end_ms),
        spec_revision=revision,
        policy_version=POLICY_VERSION,
        mode=scene.mode,
        before=report.before(scene, judged.found),
        stages=report.stages(scene, judged.found, judged.verdicts),
        action=speaker.action,
        reason=speaker.reason,
        after=dict(sorted(after.items())),
        command_id=None if command is None else command.id,
        inputs=dict(sorted(state.inputs.items())),
        state_digest=codec.digest(decided),
    )
    dry = command is not None and command.dry_run
    state = msgspec.structs.replace(
        state,
        law=decided,
        decision=decision,
        command=state.command if dry or command is None else command,
        recommendation=command if dry else None,
    )
    return state, Effects(state.record(), decision, command)


def _is_cold(scene: Scene, state: LawState) -> bool:
    """Whether the full window after an adoption is not over yet."""
    return state.cold_until_ms is not None and scene.now_ms < state.cold_until_ms


class _Again(enum.Enum):
    """Whether a command is to be given again. FROZEN: what stands is affirmed as it is; COLD: nothing is sent."""

    NO = "no"
    YES = "yes"
    FROZEN = "frozen"
    COLD = "cold"


class _Judged(msgspec.Struct, frozen=True):
    """The state as found, what the law says, and the state after."""

    found: LawState
    verdicts: list[Verdict]
    decided: LawState
    again: _Again


def _judge(scene: Scene, before: LawState) -> _Judged:
    """Hold for an older spec or a cold start; else take the census, follow a Placement above our command, and run the law."""
    spec, window = scene.spec, scene.window
    tracks = scene.tracks
    if spec.revision is not None and window.spec_revision is not None and window.spec_revision < spec.revision:
        found = census.take(scene, before) if any(role not in before.roles for role in spec.roles) else before
        return _Judged(found, [law.hold(found, track, Reason.SPEC_CHANGED) for track in tracks], before, _Again.FROZEN)
    found = census.take(scene, before)
    if _is_cold(scene, found):
        return _Judged(found, [law.hold(found, track, Reason.COLD_START) for track in tracks], found, _Again.COLD)
    again = scene.mode not in {Mode.SHADOW, Mode.SUSPENDED} and scene.places and placed.is_above(found)
    if again:
        found = placed.adopt(found, {role: scene.observed(role) for role in spec.roles})
    decided, verdicts = law.judge(scene, found)
    return _Judged(found, verdicts, decided, _Again.YES if again else _Again.NO)


class _Draft(msgspec.Struct, frozen=True):
    """What a decision wants commanded, before it has become a Command."""

    id: DecisionId
    action: Action
    after: dict[RoleName, RoleAfter]
    again: _Again


def _command(scene: Scene, state: LawState, last: Command | None, draft: _Draft) -> tuple[LawState, Command | None]:
    """The command of a decision: changed, affirmed, a dry run, or none."""
    if scene.mode is Mode.SUSPENDED or draft.again is _Again.COLD:
        return state, None
    if scene.mode is Mode.SHADOW:
        if draft.action is Action.HOLD:
            return state, None
        revision = 1 + max(state.revision, 0 if state.placement is None else state.placement.revision)
        stamp = Stamp(draft.id, revision, scene.now_ms, draft.id, dry_run=True)
        wanted = commands.ours_of(state, draft.after)
        return msgspec.structs.replace(state, revision=revision), commands.build(scene.spec, wanted, stamp)
    if draft.again is _Again.FROZEN:
        if last is None or not commands.affirm_due(scene, state):
            return state, None
        again = msgspec.structs.replace(last, at_ms=scene.now_ms, decision_id=draft.id)
        return msgspec.structs.replace(state, affirmed_at_ms=scene.now_ms), again
    return _change_or_affirm(scene, state, last, draft)


def _change_or_affirm(scene: Scene, state: LawState, last: Command | None, draft: _Draft) -> tuple[LawState, Command | None]:
    """A new revision if the content differs from the last command (a move, or a spec that says other things), else the same again."""
    counts = commands.ours(state, scene.spec)
    standing = Stamp(state.command_id or draft.id, state.commanded_revision, scene.now_ms, draft.id)
    affirmed = commands.build(scene.spec, counts, standing)
    moves = draft.action is not Action.HOLD
    changed = moves if last is None else commands.without_stamp(affirmed) != commands.without_stamp(last)
    if changed or draft.again is _Again.YES:
        above = 0 if state.placement is None else state.placement.revision
        revision = 1 + max(state.revision, above)
        state = msgspec.structs.replace(
            state,
            revision=revision,
            commanded_revision=revision,
            command_id=draft.id,
            affirmed_at_ms=scene.now_ms,
        )
        return state, commands.build(scene.spec, counts, Stamp(draft.id, revision, scene.now_ms, draft.id))
    if state.command_id is None or not commands.affirm_due(scene, state):
        return state, None
    return msgspec.structs.replace(state, affirmed_at_ms=scene.now_ms), affirmed
