"""Stage 9, soft: a scale-in first leaves routing, is watched, and only then ends; or it comes back."""

from __future__ import annotations

import enum

import msgspec

from heteroscale.contracts.decision_state import PlacementView, SoftPhase
from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.spec import Mode
from heteroscale.decision.law import ratio as ratios
from heteroscale.decision.law.ratio import EPSILON
from heteroscale.decision.law.staged import Facts, Staged


class SoftEnd(enum.Enum):
    """What a soft phase does in this window."""

    NONE = "none"
    RESTORE = "restore"
    FINALIZE = "finalize"


def apply(facts: Facts, value: int, wished: int) -> tuple[Staged, SoftEnd]:
    """The count after the soft stage.

    `value` came through all stages; `wished` is what demand and guards ask for, after bounds: a restore waits for no rate,
    stabilisation or cooldown.
    """
    phase = facts.state.soft
    if phase is None:
        return _begin(facts, value), SoftEnd.NONE
    draining = facts.lead.draining
    if wished > facts.n and draining > 0:
        restored = min(draining, wished - facts.n)
        return Staged(facts.n + restored, detail=f"{restored} of {draining} draining restored"), SoftEnd.RESTORE
    if value > facts.n:
        return Staged(value), SoftEnd.NONE
    if is_over(facts, phase):
        return Staged(facts.n, Reason.OBSERVED, "observed without need for what drains"), SoftEnd.FINALIZE
    return Staged(facts.n, Reason.OBSERVING, _progress(facts, phase)), SoftEnd.NONE


def _begin(facts: Facts, value: int) -> Staged:
    """A new scale-in may only take what was commanded; what nobody placed is not ours to stop."""
    if value >= facts.n or facts.mode is Mode.SHADOW:
        return Staged(value)
    counts = facts.track.counts(value)
    kept = {role: facts.roles[role].foreign for role in counts if counts[role] < facts.roles[role].foreign}
    if kept:
        others = ", ".join(f"{count} {role}" for role, count in sorted(kept.items()))
        return Staged(facts.n, Reason.UNADOPTED, f"{others} were not placed by us; adopt them with `heteroscale placements adopt`")
    return Staged(value)


def advance(facts: Facts, *, answers: bool) -> SoftPhase | None:
    """The running phase with this window in it: whether observing has begun, and what unjudged windows add.

    `answers`: a placement service answers, so observing begins only once it lists the draining ones.
    """
    phase = facts.state.soft
    if phase is None:
        return None
    if phase.observe_from_ms is None:
        if answers and not _drains(facts, facts.placement):
            return phase
        phase = msgspec.structs.replace(phase, observe_from_ms=facts.now_ms)
    if is_judged(facts):
        return phase
    return msgspec.structs.replace(phase, unjudged_ms=phase.unjudged_ms + facts.spec.window.hop.ms)


def is_over(facts: Facts, phase: SoftPhase) -> bool:
    """Whether `observe` has passed, unjudged windows not counted."""
    end_ms = ends_at(facts, phase)
    return end_ms is not None and facts.now_ms >= end_ms


def ends_at(facts: Facts, phase: SoftPhase) -> int | None:
    """When the phase ends as things stand; null before observing began."""
    soft = facts.spec.behavior.scale_in.soft
    if soft is None:
        return facts.now_ms
    if phase.observe_from_ms is None:
        return None
    return phase.observe_from_ms + soft.observe.ms + phase.unjudged_ms


def is_judged(facts: Facts) -> bool:
    """Whether every signal of the track has the coverage it asks for.

    A role that is to have no instance, and has none, has no coverage either: nothing of it is left to be judged.
    """
    for signal in facts.track.signals:
        role = signal.role or facts.track.lead
        seen = facts.window.roles.get(role)
        if facts.roles[role].wanted == 0 and (seen is None or seen.instances.serving + seen.instances.silent == 0):
            continue
        if seen is None or seen.coverage is None or seen.coverage < signal.min_coverage - EPSILON:
            return False
    return True


def _drains(facts: Facts, view: PlacementView | None) -> bool:
    """Whether the Placement of the commanded revision lists draining ones, or has nothing left that could drain."""
    if view is None:
        return False
    placed = [(role, view.roles[role]) for role in sorted(facts.track.ratio) if role in view.roles]
    if any(counts.draining for _, counts in placed):
        return True
    return all(counts.existing <= facts.roles[role].wanted - facts.roles[role].foreign for role, counts in placed)


def _progress(facts: Facts, phase: SoftPhase) -> str:
    end_ms = ends_at(facts, phase)
    if end_ms is None:
        return f"{facts.lead.draining} asked to drain, placement has not listed them yet"
    return f"{facts.lead.draining} draining, another {ratios.ceil((end_ms - facts.now_ms) / 1000)} s to observe"
