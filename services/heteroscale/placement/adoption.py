"""Bringing in running instances that nobody reserved. Pure.

They are checked like any reservation: their GPUs must be free, or counted as `used`, on nodes the inventory knows. What does not
fit is named and its nodes are quarantined; nothing is overwritten, and nothing that runs is ever taken for free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from heteroscale.contracts.commands import Adoption, Command
from heteroscale.contracts.names import NodeName
from heteroscale.contracts.placements import Conflict, DegradedReason, Domain, InstanceState, Pool
from heteroscale.contracts.spec import Affinity, Level
from heteroscale.placement import nodes
from heteroscale.placement.draft import Draft
from heteroscale.placement.inventory.entries import GroupEntry, InstanceEntry, NodeEntry, Quarantine, Standing
from heteroscale.placement.planning.topology import POOLS, WIDTH, Topology
from heteroscale.placement.state import FleetState


def adopt_all(state: FleetState, drafts: Sequence[Draft], now_ms: int) -> dict[NodeName, NodeEntry]:
    """Fold the adoptions of newly obeyed commands into their drafts; returns the nodes to be quarantined, as they are to stand."""
    claimed: Counter[NodeName] = Counter()
    quarantine: dict[NodeName, NodeEntry] = {}
    taken = {name for known in state.services.values() for name in known.instances}
    for draft in drafts:
        known = state.services.get(draft.service)
        repeated = known is not None and known.entry.command.revision == draft.command.revision
        if not draft.answers or repeated:
            continue
        for one in draft.command.adopt or ():
            if one.instance in draft.instances:
                continue
            refused = _refused(state, one, claimed)
            if refused is None and one.instance not in taken:
                claimed.update(one.nodes)
                taken.add(one.instance)
                _bring_in(state, draft, one, now_ms)
                continue
            draft.withdrawn[one.role] += 1  # it runs, so nothing is to be started in its place
            draft.conflicts.append(Conflict(gang=f"adopt:{one.instance}", node=refused))
            for node in one.nodes:
                if node in state.nodes and refused is not None:
                    quarantine[node] = nodes.quarantined(state.nodes[node], Quarantine.ADOPTION_CONFLICT)
    return {node: entry for node, entry in sorted(quarantine.items()) if entry != state.nodes[node]}


def conflicts(state: FleetState, command: Command) -> dict[str, NodeName | None]:
    """Which adoptions of a command would be refused, and the node that could not give (null: the name is taken). For a dry run."""
    claimed: Counter[NodeName] = Counter()
    taken = {name for known in state.services.values() for name in known.instances}
    found: dict[str, NodeName | None] = {}
    for one in command.adopt or ():
        refused = _refused(state, one, claimed)
        if refused is not None or one.instance in taken:
            found[one.instance] = refused
        else:
            claimed.update(one.nodes)
    return found


def _refused(state: FleetState, one: Adoption, claimed: Counter[NodeName]) -> NodeName | None:
    """The first node that cannot give what the instance takes."""
    for node, gpus in sorted(one.nodes.items()):
        entry = state.nodes.get(node)
        if entry is None or entry.standing in (Standing.LOST, Standing.REMOVED) or entry.record.gpu_type != one.gpu_type:
            return node
        if entry.free + entry.used - claimed[node] < gpus:
            return node
    return None


def _bring_in(state: FleetState, draft: Draft, one: Adoption, now_ms: int) -> None:
    group_id, group = _group(state.topology, draft, one)
    entry = InstanceEntry(
        service=draft.service,
        group=group_id,
        role=one.role,
        gpu_type=one.gpu_type,
        nodes=dict(sorted(one.nodes.items())),
        held=dict(sorted(one.nodes.items())),
        state=InstanceState.READY,
        since_ms=now_ms,
        reserved_ms=now_ms,
        command=draft.command.id,
        routable=True,
    )
    draft.adopt(one.instance, entry, group)


def _group(topology: Topology, draft: Draft, one: Adoption) -> tuple[str, GroupEntry]:
    """The group it is said to be in, else one per domain of the affinity level."""
    affinity = draft.command.affinity or Affinity()
    at = [topology.index[node] for node in one.nodes]
    level = max(affinity.level, Level.S1, key=WIDTH.__getitem__)
    spanned = topology.spanned(at)
    wider = spanned is None or WIDTH[spanned[0]] > WIDTH[level]
    number = int(topology.levels[level].of[at[0]])
    domain = Domain() if spanned is None else topology.domain(*spanned) if wider else topology.domain(level, number)
    pool = max((POOLS.index(_pool(topology, node)) for node in at), default=0)
    path = "/".join(part for part in (domain.cluster, domain.s2, domain.s1) if part)
    group_id = one.group or f"{draft.service}@{path}"
    reason = DegradedReason.WIDER_THAN_PREFERRED if wider else None
    return group_id, GroupEntry(domain=domain, pool=POOLS[pool], degraded=wider, degraded_reason=reason)


def _pool(topology: Topology, node: int) -> Pool:
    return POOLS[int(topology.pool[topology.levels[Level.S1].of[node]])]
