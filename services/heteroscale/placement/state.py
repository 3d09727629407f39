"""A fleet as the worker knows it between cycles: the inventory's image, arranged for planning. Immutable; unchanged parts are shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np

from heteroscale.contracts.names import FleetName, InstanceName, NodeName, ServiceName
from heteroscale.contracts.placements import Group, PlacedInstance
from heteroscale.placement import topology as shape
from heteroscale.placement.inventory.entries import FleetImage, InstanceEntry, NodeEntry, ServiceEntry, Standing
from heteroscale.placement.inventory.gang import Gang, Outcome
from heteroscale.placement.model import Snapshot
from heteroscale.placement.topology import Topology

PLANNED_AS: Final[Mapping[Standing, int]] = {
    Standing.READY: shape.READY,
    Standing.CORDONED: shape.CORDONED,
    Standing.QUARANTINED: shape.CORDONED,
    Standing.REMOVED: shape.CORDONED,
    Standing.LOST: shape.LOST,
}


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A service's entry, its instances, and both as the groups of a Placement (built once)."""

    entry: ServiceEntry
    instances: Mapping[InstanceName, InstanceEntry]
    groups: tuple[Group, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", as_groups(self.entry, self.instances))


@dataclass(frozen=True, slots=True)
class FleetState:
    """Everything of a fleet at `rev`. `topology` is rebuilt only when a fleet record changed a node."""

    fleet: FleetName
    gen: int
    fence: int
    rev: int
    cycle: int
    now_ms: int
    nodes: Mapping[NodeName, NodeEntry]
    services: Mapping[ServiceName, ServiceState]
    topology: Topology

    def snapshot(self, services: Mapping[ServiceName, tuple[Group, ...]], adopted: Mapping[NodeName, int]) -> Snapshot:
        """The planner's view: `services` in place of what is known, GPUs about to be adopted taken off."""
        names = self.topology.names
        free = np.fromiter((max(0, self.nodes[name].free) for name in names), dtype=np.int16, count=len(names))
        for node, gpus in sorted(adopted.items()):
            at = self.topology.index[node]
            entry = self.nodes[node]
            free[at] = max(0, entry.free - max(0, gpus - entry.used))
        state = np.fromiter((PLANNED_AS[self.nodes[name].standing] for name in names), dtype=np.int8, count=len(names))
        assignments = {name: known.groups for name, known in self.services.items()} | dict(services)
        return Snapshot(topology=self.topology, free=free, state=state, assignments=assignments)

    def with_nodes(self, nodes: Mapping[NodeName, NodeEntry], gone: Iterable[NodeName], rev: int) -> FleetState:
        """After a node sync."""
        after = {**self.nodes, **nodes}
        for name in gone:
            after.pop(name, None)
        reshaped = after.keys() != self.nodes.keys() or any(
            name not in self.nodes or self.nodes[name].record != entry.record for name, entry in nodes.items()
        )
        topology = built(self.fleet, after) if reshaped else self.topology
        return replace(self, nodes=after, rev=rev, topology=topology)

    def with_applied(self, applied: Sequence[tuple[Gang, Outcome]]) -> FleetState:
        """After gangs that were applied."""
        nodes, services = dict(self.nodes), dict(self.services)
        for gang, _ in applied:
            known = services.get(gang.service)
            instances = {**(known.instances if known else {}), **gang.puts}
            for name in gang.drops:
                instances.pop(name, None)
            services[gang.service] = ServiceState(gang.state, instances)
            _move(nodes, gang)
        newest = max((gang.at_ms for gang, _ in applied), default=self.now_ms)
        return replace(
            self,
            nodes=nodes,
            services=services,
            rev=max((outcome.rev for _, outcome in applied), default=self.rev),
            now_ms=max(self.now_ms, newest),
        )


def from_image(fleet: FleetName, fence: int, image: FleetImage) -> FleetState:
    """What the inventory holds, arranged."""
    instances: dict[ServiceName, dict[InstanceName, InstanceEntry]] = {name: {} for name in image.services}
    for name, entry in image.instances.items():
        instances[entry.service][name] = entry
    return FleetState(
        fleet=fleet,
        gen=image.gen,
        fence=fence,
        rev=image.rev,
        cycle=image.cycle,
        now_ms=image.now_ms,
        nodes=image.nodes,
        services={name: ServiceState(entry, instances[name]) for name, entry in image.services.items()},
        topology=built(fleet, image.nodes),
    )


def built(fleet: FleetName, nodes: Mapping[NodeName, NodeEntry]) -> Topology:
    """The topology of these nodes."""
    return Topology.build(fleet, (entry.record for entry in nodes.values()))


def as_groups(entry: ServiceEntry, instances: Mapping[InstanceName, InstanceEntry]) -> tuple[Group, ...]:
    """Groups of a Placement, sorted by id, instances sorted by id."""
    members: dict[str, list[PlacedInstance]] = {}
    for name, instance in sorted(instances.items()):
        members.setdefault(instance.group, []).append(placed(name, instance))
    groups: list[Group] = []
    for group_id, placed_instances in sorted(members.items()):
        kept = entry.groups[group_id]
        groups.append(
            Group(
                id=group_id,
                domain=kept.domain,
                pool=kept.pool,
                degraded=kept.degraded,
                degraded_reason=kept.degraded_reason,
                instances=placed_instances,
            )
        )
    return tuple(groups)


def placed(name: InstanceName, entry: InstanceEntry) -> PlacedInstance:
    """An instance as placements.v1 shows it."""
    return PlacedInstance(
        id=name,
        role=entry.role,
        part=entry.part,
        replica=entry.replica,
        gpu_type=entry.gpu_type,
        nodes=entry.nodes,
        state=entry.state,
        since_ms=entry.since_ms,
        routable=entry.routable,
    )


def _move(nodes: dict[NodeName, NodeEntry], gang: Gang) -> None:
    """The accounts as the script moves them."""
    for name, gpus in gang.takes.items():
        nodes[name] = msgspec.structs.replace(nodes[name], free=nodes[name].free - gpus)
    for name, gpus in gang.adopts.items():
        from_used = min(gpus, nodes[name].used)
        nodes[name] = msgspec.structs.replace(nodes[name], free=nodes[name].free - (gpus - from_used), used=nodes[name].used - from_used)
    for name, gpus in gang.frees.items():
        if name in nodes:
            nodes[name] = msgspec.structs.replace(nodes[name], free=nodes[name].free + gpus)
