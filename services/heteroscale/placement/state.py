"""A fleet as the worker knows it between cycles: the inventory's image, arranged for planning. Immutable; unchanged parts are shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np

from heteroscale.contracts.names import FleetName, InstanceName, NodeName, ServiceName
from heteroscale.contracts.placements import Group, InstanceState, PlacedInstance
from heteroscale.placement import life, nodes
from heteroscale.placement.inventory.entries import Cause, FleetImage, InstanceEntry, NodeEntry, ServiceEntry, Standing
from heteroscale.placement.inventory.gang import Gang, Outcome
from heteroscale.placement.planning import topology as shape
from heteroscale.placement.planning.model import Snapshot
from heteroscale.placement.planning.topology import Codes, Counts, Topology

PLANNED_AS: Final[Mapping[Standing, int]] = {
    Standing.READY: shape.READY,
    Standing.CORDONED: shape.CORDONED,
    Standing.QUARANTINED: shape.CORDONED,
    Standing.REMOVED: shape.CORDONED,
    Standing.LOST: shape.LOST,
}


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A service's entry and its instances, and what cycles ask of them again and again, worked out once.

    `groups`: both as a Placement shows them. `nodes`: all that its instances are on. `oldest_start_ms`: the earliest reservation
    among those that have not started; null when all have. `suspect`: nodes on which a start is overdue and nobody said what became
    of it.
    """

    entry: ServiceEntry
    instances: Mapping[InstanceName, InstanceEntry]
    groups: tuple[Group, ...] = field(init=False)
    nodes: frozenset[NodeName] = field(init=False)
    oldest_start_ms: int | None = field(init=False)
    suspect: frozenset[NodeName] = field(init=False)

    def __post_init__(self) -> None:
        starting = (one.reserved_ms for one in self.instances.values() if one.state in life.STARTED)
        object.__setattr__(self, "groups", as_groups(self.entry, self.instances))
        object.__setattr__(self, "nodes", frozenset(node for one in self.instances.values() for node in one.nodes))
        object.__setattr__(self, "oldest_start_ms", min(starting, default=None))
        object.__setattr__(self, "suspect", suspects(self.instances.values()))


def suspects(instances: Iterable[InstanceEntry]) -> frozenset[NodeName]:
    """Nodes of instances that were told to stop because they did not start in time."""
    overdue = (one for one in instances if one.cause is Cause.OVERDUE and one.state is InstanceState.STOPPING)
    return frozenset(node for one in overdue for node in one.nodes)


@dataclass(frozen=True, slots=True, repr=False)
class Frame:
    """What of the nodes only a fleet change can alter: their shape, standing, and who is lost or waits to be settled."""

    topology: Topology
    standing: Codes
    lost: frozenset[NodeName]
    unsettled: bool

    @classmethod
    def of(cls, topology: Topology, entries: Mapping[NodeName, NodeEntry]) -> Frame:
        """The frame of these nodes."""
        names = topology.names
        return cls(
            topology=topology,
            standing=np.fromiter((PLANNED_AS[entries[name].standing] for name in names), dtype=np.int8, count=len(names)),
            lost=frozenset(name for name, entry in entries.items() if entry.standing is Standing.LOST),
            unsettled=nodes.unsettled(entries.values()),
        )


@dataclass(frozen=True, slots=True, repr=False)
class FleetState:
    """Everything of a fleet at `rev`. `topology` is rebuilt only when a fleet record changed a node.

    `suspect_ms`: at_ms of the last command, if it was refused for being too far ahead of `now_ms`.
    """

    fleet: FleetName
    gen: int
    fence: int
    rev: int
    cycle: int
    now_ms: int
    nodes: Mapping[NodeName, NodeEntry]
    services: Mapping[ServiceName, ServiceState]
    frame: Frame
    free: Counts
    suspect_ms: int | None = None

    @property
    def topology(self) -> Topology:
        """The shape of the fleet."""
        return self.frame.topology

    def snapshot(
        self, services: Mapping[ServiceName, tuple[Group, ...]], adopted: Mapping[NodeName, int], suspect: Iterable[NodeName] = ()
    ) -> Snapshot:
        """The planner's view: `services` in place of what is known, GPUs about to be adopted taken off, nothing free on `suspect`."""
        free = np.maximum(self.free, 0)
        free[[self.topology.index[node] for node in suspect if node in self.topology.index]] = 0
        for node, gpus in sorted(adopted.items()):
            entry = self.nodes[node]
            free[self.topology.index[node]] = max(0, entry.free - max(0, gpus - entry.used))
        assignments = {name: known.groups for name, known in self.services.items()} | dict(services)
        return Snapshot(topology=self.topology, free=free, state=self.frame.standing, assignments=assignments)

    def with_nodes(self, changed: Mapping[NodeName, NodeEntry], gone: Iterable[NodeName], rev: int) -> FleetState:
        """After a node sync."""
        after = {**self.nodes, **changed}
        for name in gone:
            after.pop(name, None)
        reshaped = after.keys() != self.nodes.keys() or any(
            name not in self.nodes or self.nodes[name].record != entry.record for name, entry in changed.items()
        )
        topology = built(self.fleet, after) if reshaped else self.topology
        return replace(self, nodes=after, rev=rev, frame=Frame.of(topology, after), free=_free(topology, after))

    def with_applied(self, applied: Sequence[tuple[Gang, Outcome]]) -> FleetState:
        """After gangs that were applied."""
        if not applied:
            return self
        nodes, services, free = dict(self.nodes), dict(self.services), self.free.copy()
        for gang, _ in applied:
            known = services.get(gang.service)
            instances = {**(known.instances if known else {}), **gang.puts}
            for name in gang.drops:
                instances.pop(name, None)
            services[gang.service] = ServiceState(gang.state, instances)
            _move(nodes, gang)
            for name in {*gang.takes, *gang.adopts, *gang.frees} & nodes.keys():
                free[self.topology.index[name]] = nodes[name].free
        newest = max((gang.at_ms for gang, _ in applied), default=self.now_ms)
        return replace(
            self,
            nodes=nodes,
            services=services,
            free=free,
            rev=max((outcome.rev for _, outcome in applied), default=self.rev),
            now_ms=max(self.now_ms, newest),
        )


def from_image(fleet: FleetName, fence: int, image: FleetImage) -> FleetState:
    """What the inventory holds, arranged."""
    topology = built(fleet, image.nodes)
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
        frame=Frame.of(topology, image.nodes),
        free=_free(topology, image.nodes),
    )


def built(fleet: FleetName, nodes: Mapping[NodeName, NodeEntry]) -> Topology:
    """The topology of these nodes."""
    return Topology.build(fleet, (entry.record for entry in nodes.values()))


def _free(topology: Topology, entries: Mapping[NodeName, NodeEntry]) -> Counts:
    return np.fromiter((entries[name].free for name in topology.names), dtype=np.int16, count=len(topology.names))


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
