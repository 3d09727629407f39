"""The readable half of a decision: counts before, the stage table, the action of all tracks as one, and the counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from heteroscale.contracts.decision_state import Counters, LawState
from heteroscale.contracts.decisions import Action, Reason, RoleBefore, Stage, StageName
from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Mode
from heteroscale.decision.law import census
from heteroscale.decision.law.census import Scene
from heteroscale.decision.law.verdict import Verdict


def before(scene: Scene, found: LawState) -> dict[RoleName, RoleBefore]:
    """Every role as the decision found it. `serving` is what the window counts."""
    timeout_ms = scene.spec.behavior.pending.timeout.ms
    return {
        role: RoleBefore(
            replicas=state.wanted,
            draining=state.draining,
            serving=scene.counts(role).serving,
            pending=census.pending(state, scene.now_ms, timeout_ms),
            foreign=state.foreign,
        )
        for role, state in sorted(found.roles.items())
        if role in scene.spec.roles
    }


def summary(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that speaks for the service: the first track that acts (the ratio's is first), else the first that has a reason."""
    for verdict in verdicts:
        if verdict.action is not Action.HOLD:
            return verdict
    return next((verdict for verdict in verdicts if verdict.reason is not Reason.STEADY), verdicts[0])


def stages(scene: Scene, found: LawState, verdicts: Sequence[Verdict]) -> list[Stage]:
    """Ten rows: every role's count after each stage, and why it changed or was kept."""
    speaker = summary(verdicts)
    ordered = [speaker, *(verdict for verdict in verdicts if verdict is not speaker)]
    rows = []
    derived: list[dict[int, Mapping[RoleName, int]]] = [{} for _ in verdicts]
    for index, name in enumerate(StageName):
        value: dict[RoleName, int] = {}
        for verdict, known in zip(verdicts, derived, strict=True):
            value |= _counts(verdict, index, name, known)
        told = [verdict.stages[index] for verdict in ordered]
        reason = next((staged.reason for staged in told if staged.reason is not None), None)
        if name is StageName.FINAL and reason is None and speaker.reason is Reason.REPAIR:
            reason = Reason.REPAIR
        details = [staged.detail for staged in told if staged.detail]
        if name is StageName.FINAL and scene.mode is Mode.SHADOW:
            details.extend(dry_run_text(found))
        rows.append(Stage(stage=name, value=dict(sorted(value.items())), reason=reason, detail="; ".join(details)))
    return rows


def _counts(verdict: Verdict, index: int, name: StageName, known: dict[int, Mapping[RoleName, int]]) -> Mapping[RoleName, int]:
    """Counts of a track after a stage; `known` remembers what was derived for the stages before, mostly the same."""
    if verdict.frozen_counts is not None:
        return verdict.frozen_counts
    if name is StageName.FINAL:
        return verdict.targets
    n = verdict.stages[index].value
    if n not in known:
        known[n] = verdict.track.counts(n)
    return known[n]


def dry_run_text(found: LawState) -> list[str]:
    """Whether the last recommendation could have been placed, in words; nothing before the first answer."""
    answer = found.dry_run
    if answer is None:
        return []
    if not answer.shortfall:
        return [f"recommendation {answer.command_id} could have been placed"]
    missing = ", ".join(f"{count} {role}" for role, count in sorted(answer.shortfall.items()))
    text = f": {answer.text}" if answer.text else ""
    return [f"recommendation {answer.command_id} could not have been placed, short of {missing}{text}"]


def count(scene: Scene, state: LawState, verdicts: Sequence[Verdict]) -> LawState:
    """The state with its counters and the running hold."""
    speaker = summary(verdicts)
    past, action = state.counters, speaker.action
    moved = action in {Action.SCALE_OUT, Action.SCALE_IN}
    turned = moved and state.last_move not in {None, action}
    began = sum(1 for verdict in verdicts if verdict.state.alarm_since_ms == scene.now_ms)
    counters = Counters(
        decisions=past.decisions + 1,
        scale_outs=past.scale_outs + (action is Action.SCALE_OUT),
        scale_ins=past.scale_ins + (action is Action.SCALE_IN),
        restores=past.restores + (action is Action.RESTORE),
        guard_episodes=past.guard_episodes + began,
        direction_changes=past.direction_changes + turned,
    )
    holds = action is Action.HOLD
    same = holds and state.hold_reason is speaker.reason
    return msgspec.structs.replace(
        state,
        counters=counters,
        last_move=action if moved else state.last_move,
        hold_reason=speaker.reason if holds else None,
        hold_since_ms=state.hold_since_ms if same else (scene.now_ms if holds else None),
    )
