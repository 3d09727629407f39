"""An inventory from what is on the log: placements.v1 says who holds what, fleet.v1 what there is. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command, CommandRole
from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.contracts.names import FleetName, InstanceName, NodeName, RoleName, ServiceName
from heteroscale.contracts.placements import InstanceState, PlacedInstance, Placement
from heteroscale.contracts.spec import GpuChoice
from heteroscale.placement import life, nodes
from heteroscale.placement.inventory.entries import (
    Cause,
    FleetImage,
    GroupEntry,
    InstanceEntry,
    NodeEntry,
    Quarantine,
    ServiceEntry,
    Standing,
    held_by_node,
)
from heteroscale.placement.lineage import Lineage
from heteroscale.placement.nodes import NodeChange
from heteroscale.placement.state import ServiceState


@dataclass(frozen=True, slots=True)
class Remains:
    """What the log still says about a fleet.

    `commands`: the whole Command of each newest Placement, where it was found. `ended`: instances of which word came that no process
    is left. `ghosts`: instances whose last word was that they run although no newest Placement lists them, each with the last
    Placement that did. `lineage`: what the history of placements.v1 tells of who stands in for whom.
    """

    fleet: FleetName
    gen: int
    placements: Mapping[ServiceName, Placement]
    records: Mapping[NodeName, NodeChange]
    commands: Mapping[ServiceName, Command] = field(default_factory=dict)
    ended: Collection[InstanceName] = frozenset()
    ghosts: Mapping[InstanceName, Placement] = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)


def image(remains: Remains) -> FleetImage:
    """The inventory under generation `gen`. Nodes that ghosts ran on are quarantined; a node that is held but gone is kept, removed."""
    services: dict[ServiceName, ServiceEntry] = {}
    instances: dict[InstanceName, InstanceEntry] = {}
    for service, placement in sorted(remains.placements.items()):
        services[service] = _service(placement, remains.commands.get(service))
        for group in placement.groups:
            for one in group.instances:
                entry = _instance(service, group.id, one, placement, ended=one.id in remains.ended)
                instances[one.id] = _related(entry, one.id, remains.lineage)
    _haunt(services, instances, remains.ghosts)
    return FleetImage(
        gen=remains.gen,
        rev=0,
        cycle=max((placement.inputs.cycle for placement in remains.placements.values() if placement.inputs), default=0),
        now_ms=max((placement.at_ms for placement in remains.placements.values()), default=0),
        nodes=_nodes(remains, instances),
        services=services,
        instances=instances,
    )


def departed(image: FleetImage, elsewhere: Collection[ServiceName]) -> frozenset[ServiceName]:
    """Services that hold nothing here while their newest record is another fleet's (`elsewhere`): they moved, and can be forgotten."""
    holding = {one.service for one in image.instances.values()}
    return frozenset(image.services.keys() & frozenset(elsewhere)) - holding


def renewed(image: FleetImage, gen: int, ghosts: Mapping[InstanceName, Placement]) -> FleetImage:
    """The same inventory under another generation, with the nodes of `ghosts` quarantined.

    For a server that started anew and kept everything that the log knows: what it may have forgotten was written under the old
    generation, and no record of that counts any more once the new one is on the log.
    """
    services, instances = dict(image.services), dict(image.instances)
    _haunt(services, instances, ghosts)
    entries = dict(image.nodes)
    for name in sorted({node for one in instances.values() if one.cause is Cause.GHOST for node in one.nodes} & entries.keys()):
        entries[name] = nodes.quarantined(entries[name], Quarantine.DISAGREES)
    return msgspec.structs.replace(image, gen=gen, nodes=entries, services=services, instances=instances)


def republished(built: FleetImage, remains: Remains) -> list[tuple[ServiceName, bytes]]:
    """Every assignment again, under the new generation."""
    found: list[tuple[ServiceName, bytes]] = []
    for service, placement in sorted(remains.placements.items()):
        own = {name: one for name, one in built.instances.items() if one.service == service}
        groups = list(ServiceState(built.services[service], own).groups)
        record = msgspec.structs.replace(placement, gen=built.gen, groups=groups, changes=[])
        found.append((service, codec.encode(record)))
    return found


def _haunt(
    services: dict[ServiceName, ServiceEntry], instances: dict[InstanceName, InstanceEntry], ghosts: Mapping[InstanceName, Placement]
) -> None:
    """List ghosts as failed and unacknowledged, in the groups they were in."""
    for name, placement in sorted(ghosts.items()):
        if placement.service in services and name not in instances:
            services[placement.service] = _haunted(services[placement.service], placement, name)
            instances[name] = _ghost(name, placement)


def _service(placement: Placement, command: Command | None) -> ServiceEntry:
    groups = {
        group.id: GroupEntry(domain=group.domain, pool=group.pool, degraded=group.degraded, degraded_reason=group.degraded_reason)
        for group in placement.groups
    }
    known = command if command is not None else _stand_in(placement)
    return ServiceEntry(
        seq=placement.seq or 0,
        command=known,
        first_at_ms=known.at_ms,
        groups=groups,
        withdrawn=_withdrawn(known, placement),
        shortfall=dict(placement.shortfall),
    )


def _withdrawn(command: Command, placement: Placement) -> dict[RoleName, int]:
    """What people had stopped: neither running nor missing though the command asks for it."""
    units = {
        (one.role, group.id, one.replica if one.part is not None else one.id)
        for group in placement.groups
        for one in group.instances
        if one.state in life.RUNNING
    }
    running = Counter(role for role, _, _ in units)
    wanted = {role: target.replicas - placement.shortfall.get(role, 0) for role, target in sorted(command.roles.items())}
    return {role: count - running[role] for role, count in wanted.items() if count > running[role]}


def _stand_in(placement: Placement) -> Command:
    """A command that asks for what is there, until the next affirmation says more. Its at_ms is below any real one's."""
    roles: dict[str, CommandRole] = {}
    for group in placement.groups:
        for one in group.instances:
            if one.state in (InstanceState.FAILED, InstanceState.STOPPING):
                continue
            known = roles.get(one.role)
            draining = one.state is InstanceState.DRAINING
            roles[one.role] = CommandRole(
                replicas=(known.replicas if known else 0) + (not draining),
                draining=(known.draining if known else 0) + draining,
                gpus=sum(one.nodes.values()),
                gpu_types=[GpuChoice(type=one.gpu_type)],
            )
    return Command(
        id=placement.command_id,
        revision=placement.revision,
        service=placement.service,
        fleet=placement.fleet,
        at_ms=0,
        decision_id=placement.command_id,
        roles=dict(sorted(roles.items())),
    )


def _instance(service: ServiceName, group: str, one: PlacedInstance, placement: Placement, *, ended: bool) -> InstanceEntry:
    """One that failed without word of its end may still run: it keeps what it was on, and its nodes take nothing."""
    failed = one.state is InstanceState.FAILED
    return InstanceEntry(
        service=service,
        group=group,
        role=one.role,
        part=one.part,
        replica=one.replica,
        gpu_type=one.gpu_type,
        nodes=one.nodes,
        held={} if failed and ended else one.nodes,
        state=one.state,
        since_ms=one.since_ms,
        reserved_ms=one.since_ms,
        command=placement.command_id,
        routable=one.routable,
        cause=Cause.NODE_LOST if failed and not ended else None,
        replacement=one.state in life.STARTED,  # nobody knows any more: the gate then holds back newcomers only
    )


def _related(entry: InstanceEntry, name: InstanceName, lineage: Lineage) -> InstanceEntry:
    """Whom it stands in for, and whether somebody is to stand in for it."""
    late = name in lineage.overdue and entry.state is InstanceState.STOPPING
    return msgspec.structs.replace(entry, replaces=lineage.replaces.get(name), cause=Cause.OVERDUE if late else entry.cause)


def _ghost(name: InstanceName, placement: Placement) -> InstanceEntry:
    group, one = next((group, one) for group in placement.groups for one in group.instances if one.id == name)
    return InstanceEntry(
        service=placement.service,
        group=group.id,
        role=one.role,
        part=one.part,
        replica=one.replica,
        gpu_type=one.gpu_type,
        nodes=one.nodes,
        held={},
        state=InstanceState.FAILED,
        since_ms=one.since_ms,
        reserved_ms=one.since_ms,
        command=placement.command_id,
        cause=Cause.GHOST,
    )


def _haunted(entry: ServiceEntry, placement: Placement, name: InstanceName) -> ServiceEntry:
    group = next(group for group in placement.groups if any(one.id == name for one in group.instances))
    if group.id in entry.groups:
        return entry
    kept = GroupEntry(domain=group.domain, pool=group.pool, degraded=group.degraded, degraded_reason=group.degraded_reason)
    return msgspec.structs.replace(entry, groups={**entry.groups, group.id: kept})


def _nodes(remains: Remains, instances: Mapping[InstanceName, InstanceEntry]) -> dict[NodeName, NodeEntry]:
    held = held_by_node(instances)
    present = [change for change in remains.records.values() if change.record is not None]
    found = dict(nodes.settle({}, present, []).nodes)
    haunted = {node for one in instances.values() if one.cause is Cause.GHOST for node in one.nodes}
    unheard = {node for one in instances.values() if one.cause is Cause.NODE_LOST for node in one.nodes}
    occupied = {node for one in instances.values() for node in one.nodes}
    for name in sorted(occupied - found.keys()):
        found[name] = _vanished(name, remains, instances)
    for name, entry in sorted(found.items()):
        taken = held.get(name, 0)
        used = max(0, min(entry.used, entry.record.gpus - taken))
        after = msgspec.structs.replace(entry, free=entry.record.gpus - used - taken, used=used)
        if name in haunted | unheard:
            after = nodes.quarantined(after, Quarantine.DISAGREES if name in haunted else Quarantine.BACK_FROM_LOST)
        found[name] = after
    return found


def _vanished(name: NodeName, remains: Remains, instances: Mapping[InstanceName, InstanceEntry]) -> NodeEntry:
    """A node that instances hold and fleet.v1 no longer has: as large as what is held, in the place its group is in."""
    change = remains.records.get(name)
    holders = [one for _, one in sorted(instances.items()) if name in one.nodes]
    gpus = sum(one.held.get(name, 0) for one in holders)
    groups = (group for placement in remains.placements.values() for group in placement.groups if group.id == holders[0].group)
    domain = next((group.domain for group in groups), None)
    at = NodeAt(
        cluster=(domain.cluster if domain else None) or "unknown",
        s2=(domain.s2 if domain else None) or "unknown",
        s1=(domain.s1 if domain else None) or "unknown",
    )
    record = FleetNode(node=name, fleet=remains.fleet, gpu_type=holders[0].gpu_type, gpus=gpus, at=at, state=NodeState.CORDONED)
    revision = change.revision if change is not None else -1
    return NodeEntry(record=record, revision=revision, standing=Standing.REMOVED, free=0)
