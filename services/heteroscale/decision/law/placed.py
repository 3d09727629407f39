"""What the law keeps of a Placement: counts by role and state, the shortfall, and the answer to a dry run."""

from __future__ import annotations

import msgspec

from heteroscale.contracts.decision_state import DryRunAnswer, LawState, PlacedCounts, PlacementView, RoleState
from heteroscale.contracts.names import RoleName
from heteroscale.contracts.placements import InstanceState, Placement

WORST_FIRST = (
    InstanceState.FAILED,
    InstanceState.STOPPING,
    InstanceState.DRAINING,
    InstanceState.RESERVED,
    InstanceState.STARTING,
    InstanceState.READY,
)


def fold(law: LawState, placement: Placement) -> LawState:
    """The state with a Placement in it; one not above the last changes nothing."""
    if placement.dry_run:
        if law.dry_run is not None and placement.at_ms < law.dry_run.at_ms:
            return law
        return msgspec.structs.replace(law, dry_run=_answer(placement))
    order = (placement.gen, placement.seq or 0)
    if law.placement is not None and order <= (law.placement.gen, law.placement.seq):
        return law
    view = view_of(placement)
    same = law.placement is not None and {r: c.existing for r, c in law.placement.roles.items()} == {
        r: c.existing for r, c in view.roles.items()
    }
    known = law.window_end_ms >= 0
    return msgspec.structs.replace(
        law,
        placement=view,
        relisted_after_ms=law.window_end_ms if known and not same else law.relisted_after_ms,
    )


def view_of(placement: Placement) -> PlacementView:
    """Counts of replicas; the parts of one replica are one, in the state of its worst part."""
    replicas: dict[tuple[RoleName, str, str], set[InstanceState]] = {}
    for group in placement.groups:
        for instance in group.instances:
            name = instance.id if instance.part is None else f"#{instance.replica}"
            replicas.setdefault((instance.role, group.id, name), set()).add(instance.state)
    counts: dict[RoleName, dict[str, int]] = {}
    for (role, _, _), states in sorted(replicas.items()):
        worst = next(state for state in WORST_FIRST if state in states)
        of_role = counts.setdefault(role, {})
        of_role[worst.value] = of_role.get(worst.value, 0) + 1
    return PlacementView(
        gen=placement.gen,
        seq=placement.seq or 0,
        at_ms=placement.at_ms,
        revision=placement.revision,
        command_id=placement.command_id,
        status=placement.status,
        roles={role: PlacedCounts(**of_role) for role, of_role in sorted(counts.items())},
        shortfall={role: count for role, count in sorted(placement.shortfall.items()) if count > 0},
    )


def _answer(placement: Placement) -> DryRunAnswer:
    return DryRunAnswer(
        at_ms=placement.at_ms,
        revision=placement.revision,
        command_id=placement.command_id,
        status=placement.status,
        shortfall={role: count for role, count in sorted(placement.shortfall.items()) if count > 0},
        text="" if placement.explain is None else placement.explain.text,
    )


def is_above(law: LawState) -> bool:
    """Whether the newest Placement answers a command above our last: someone adopted instances, or our state was lost."""
    return law.placement is not None and law.placement.revision > law.commanded_revision


def adopt(law: LawState, observed: dict[RoleName, int]) -> LawState:
    """The counts of a Placement above the last command, as ours; `observed` are the window's."""
    view = law.placement
    if view is None:
        return law
    roles = {role: _adopted(state, view, role, observed.get(role, 0)) for role, state in law.roles.items()}
    return msgspec.structs.replace(law, roles=roles, revision=max(law.revision, view.revision))


def _adopted(state: RoleState, view: PlacementView, role: RoleName, observed: int) -> RoleState:
    counts = view.roles.get(role, PlacedCounts())
    return msgspec.structs.replace(
        state,
        commanded=counts.existing - counts.draining + view.shortfall.get(role, 0),
        draining=counts.draining,
        foreign=max(0, observed - counts.listed),
    )
