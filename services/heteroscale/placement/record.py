"""Placements as they stand on the log, from what a cycle made of a service. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from heteroscale.contracts.commands import Command
from heteroscale.contracts.names import InstanceName, RoleName
from heteroscale.contracts.placements import Change, InstanceState, Placement, PlacementInputs, PlacementStatus
from heteroscale.placement import life
from heteroscale.placement.draft import Draft
from heteroscale.placement.inventory.entries import InstanceEntry
from heteroscale.placement.planning.model import Planned, PlanStatus
from heteroscale.placement.state import as_groups

DRY_STATUS: Final[Mapping[PlanStatus, PlacementStatus]] = {
    PlanStatus.PLACED: PlacementStatus.PROGRESSING,
    PlanStatus.UNCHANGED: PlacementStatus.CONVERGED,
    PlanStatus.PARTIAL: PlacementStatus.PARTIAL,
    PlanStatus.UNPLACED: PlacementStatus.UNPLACED,
}


def real(draft: Draft, gen: int, now_ms: int, inputs: PlacementInputs, *, seq: int | None = None) -> Placement:
    """The record of what is reserved; its `seq` is the next one unless it is said."""
    return Placement(
        service=draft.service,
        fleet=draft.command.fleet,
        revision=draft.command.revision,
        command_id=draft.command.id,
        seq=draft.seq + 1 if seq is None else seq,
        gen=gen,
        at_ms=now_ms,
        status=status(draft.wanted(), draft.instances, draft.shortfall),
        groups=list(as_groups(draft.entry(), draft.instances)),
        changes=[
            Change(instance=move.instance, from_=move.before, to=move.after, reason=move.reason)
            for move in sorted(draft.transitions, key=lambda move: (move.instance, str(move.before), str(move.after)))
        ],
        shortfall=draft.shortfall,
        explain=draft.explain,
        inputs=inputs,
    )


def dry(command: Command, planned: Planned, gen: int, now_ms: int, inputs: PlacementInputs) -> Placement:
    """The answer to a dry run: what would be, with nothing reserved."""
    return Placement(
        service=command.service,
        fleet=command.fleet,
        revision=command.revision,
        command_id=command.id,
        seq=None,
        gen=gen,
        at_ms=now_ms,
        status=DRY_STATUS[planned.status],
        groups=sorted(planned.assignment, key=lambda group: group.id),
        changes=[
            Change(instance=move.instance, from_=move.before, to=move.after, reason=move.reason)
            for move in sorted(planned.transitions, key=lambda move: (move.instance, str(move.before), str(move.after)))
        ],
        shortfall=dict(sorted(planned.shortfall.items())),
        explain=planned.explain,
        inputs=inputs,
        dry_run=True,
    )


def status(wanted: Command, instances: Mapping[InstanceName, InstanceEntry], shortfall: Mapping[RoleName, int]) -> PlacementStatus:
    """converged: counts met, all ready, nothing draining or stopping. unplaced: something is missing and nothing runs."""
    alive = [one for one in instances.values() if one.state is not InstanceState.FAILED]
    if any(shortfall.values()):
        running = any(one.state in life.COUNTED for one in alive)
        return PlacementStatus.PARTIAL if running else PlacementStatus.UNPLACED
    settled = all(one.state is InstanceState.READY for one in alive)
    if settled and counts(alive) == {role: target.replicas for role, target in wanted.roles.items() if target.replicas}:
        return PlacementStatus.CONVERGED
    return PlacementStatus.PROGRESSING


def counts(instances: Sequence[InstanceEntry]) -> dict[RoleName, int]:
    """Serving units per role: an instance, or a replica of a role that is made of parts."""
    units = {
        (one.role, one.group, one.replica) if one.part is not None else (one.role, one.group, f"#{at}") for at, one in enumerate(instances)
    }
    found: dict[RoleName, int] = {}
    for role, _, _ in units:
        found[role] = found.get(role, 0) + 1
    return found
