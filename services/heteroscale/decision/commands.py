"""The Command of a service: self-contained targets, when they change and when they are only affirmed."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from heteroscale.contracts.commands import Command, CommandRole
from heteroscale.contracts.decision_state import LawState
from heteroscale.contracts.decisions import RoleAfter
from heteroscale.contracts.names import DecisionId, RoleName
from heteroscale.contracts.placements import PlacementStatus
from heteroscale.contracts.spec import PlacementSpec, RoleSpec, ServiceSpec
from heteroscale.decision.law.census import Scene

AFFIRM_MS = 60_000


class Stamp(msgspec.Struct, frozen=True):
    """Who sends a command, when, as which revision; `id` is the decision that last changed it."""

    id: DecisionId
    revision: int
    at_ms: int
    decision_id: DecisionId
    dry_run: bool = False


def build(spec: ServiceSpec, counts: Mapping[RoleName, RoleAfter], stamp: Stamp) -> Command:
    """The command for `counts`, which are ours alone: foreign instances are not in them."""
    place = spec.placement if isinstance(spec.placement, PlacementSpec) else None
    return Command(
        id=stamp.id,
        revision=stamp.revision,
        service=spec.service,
        fleet=spec.fleet,
        at_ms=stamp.at_ms,
        decision_id=stamp.decision_id,
        priority=spec.priority,
        roles={role: _role(spec.roles[role], count) for role, count in sorted(counts.items())},
        ratio=dict(sorted(spec.ratio.items())),
        affinity=None if place is None else place.affinity,
        prefer=None if place is None else place.prefer,
        wait_ms=0 if place is None else place.wait.ms,
        partial=(place or PlacementSpec()).partial,
        spread=(place or PlacementSpec()).spread,
        ready_ratio=spec.ready_ratio,
        start_deadline_ms=spec.behavior.pending.timeout.ms,
        dry_run=stamp.dry_run,
    )


def _role(spec: RoleSpec, count: RoleAfter) -> CommandRole:
    gpus = spec.gpus
    if spec.parts is not None:
        gpus = sum(part.count * part.gpus for part in spec.parts.values())
    return CommandRole(
        replicas=count.replicas,
        draining=count.draining,
        gpus=gpus or 0,
        gpu_types=spec.gpu_types,
        parts=spec.parts,
        within=spec.within,
    )


def ours(law: LawState, spec: ServiceSpec) -> dict[RoleName, RoleAfter]:
    """What is commanded of each role: the wanted count without the foreign ones, and what drains."""
    roles = {role: law.roles[role] for role in sorted(spec.roles)}
    return {role: RoleAfter(replicas=state.commanded, draining=state.draining) for role, state in roles.items()}


def ours_of(law: LawState, wanted: Mapping[RoleName, RoleAfter]) -> dict[RoleName, RoleAfter]:
    """Wanted counts without the foreign instances, which are never commanded."""
    return {
        role: msgspec.structs.replace(count, replicas=max(0, count.replicas - law.roles[role].foreign))
        for role, count in sorted(wanted.items())
    }


def without_stamp(command: Command) -> Command:
    """A command's content alone, to be compared."""
    return msgspec.structs.replace(command, id="", revision=0, at_ms=0, decision_id="", adopt=None)


def affirm_due(scene: Scene, law: LawState) -> bool:
    """Every window until the service has converged, and once a minute after."""
    if law.affirmed_at_ms is None or not converged(scene, law):
        return True
    return scene.now_ms - law.affirmed_at_ms >= AFFIRM_MS


def converged(scene: Scene, law: LawState) -> bool:
    """Whether the last command is carried out: placement says so, or without one the window counts exactly what is wanted."""
    if scene.places:
        view = law.placement
        return view is not None and view.revision == law.commanded_revision and view.status is PlacementStatus.CONVERGED
    return all(
        scene.counts(role).serving == state.wanted and scene.counts(role).draining == 0 and state.draining == 0
        for role, state in law.roles.items()
    )
