"""FLEET.yaml of `heteroscale plan`: nodes, and what runs on them, to a snapshot; every mistake with place and cure."""

from __future__ import annotations

from heteroscale.cli.plan_reading import Problems
from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.contracts.message import Message
from heteroscale.contracts.placements import DegradedReason, Domain, Group, InstanceState, PlacedInstance, Pool
from heteroscale.decision.specs.problems import Path
from heteroscale.placement.planning.model import Snapshot
from heteroscale.placement.planning.topology import Topology
from heteroscale.placement.topologies.importers import GPUS_MAX


class PlanNode(Message, frozen=True, kw_only=True):
    """A node of FLEET.yaml."""

    node: str
    gpu_type: str
    gpus: int
    at: NodeAt
    used: int = 0
    state: NodeState = NodeState.READY
    fleet: str | None = None
    observed_at_ms: int = 0


class PlanInstance(Message, frozen=True, kw_only=True):
    """An instance that runs already."""

    id: str
    role: str
    nodes: dict[str, int]
    state: InstanceState = InstanceState.READY
    part: str | None = None
    replica: int | None = None
    gpu_type: str | None = None
    since_ms: int = 0
    routable: bool | None = None


class PlanGroup(Message, frozen=True, kw_only=True):
    """A group that runs already."""

    id: str
    service: str
    instances: list[PlanInstance]
    domain: Domain | None = None
    pool: Pool | None = None
    degraded: bool = False
    degraded_reason: DegradedReason | None = None


class PlanFleet(Message, frozen=True, kw_only=True):
    """FLEET.yaml."""

    fleet: str = "default"
    nodes: list[PlanNode]
    groups: list[PlanGroup] | None = None


def snapshot(shape: PlanFleet, problems: Problems) -> Snapshot:
    """The fleet as a planner sees it. Raises SpecInvalid with all that is wrong."""
    nodes: dict[str, PlanNode] = {}
    for at, node in enumerate(shape.nodes):
        if node.node in nodes:
            problems.add(("nodes", at, "node"), f"{node.node} stands twice; a node has one name in a fleet, keep one of them")
        if not 1 <= node.gpus <= GPUS_MAX:
            problems.add(("nodes", at, "gpus"), f"{node.gpus} is not possible; write 1 to {GPUS_MAX}")
        elif not 0 <= node.used <= node.gpus:
            problems.add(("nodes", at, "used"), f"{node.used} of {node.gpus} GPUs is not possible; write 0 to {node.gpus}")
        nodes.setdefault(node.node, node)
    groups = shape.groups or []
    held = _held(groups, nodes, problems)
    _check_held(shape, groups, held, problems)
    problems.settle()
    topology = Topology.build(
        shape.fleet,
        (FleetNode(node=n.node, fleet=shape.fleet, gpu_type=n.gpu_type, gpus=n.gpus, at=n.at, state=n.state) for n in shape.nodes),
    )
    free = topology.gpus.copy()
    for name, node in nodes.items():
        free[topology.index[name]] -= node.used + held.get(name, 0)
    assignments: dict[str, tuple[Group, ...]] = {}
    for group in groups:
        assignments[group.service] = (*assignments.get(group.service, ()), _group(group, nodes))
    return Snapshot(topology=topology, free=free, state=topology.state, assignments=assignments)


def _held(groups: list[PlanGroup], nodes: dict[str, PlanNode], problems: Problems) -> dict[str, int]:
    """GPUs that the groups hold per node; a failed instance holds none. Notes unknown nodes, repeated ids, mixed GPU types."""
    held: dict[str, int] = {}
    seen: set[str] = set()
    names: set[str] = set()
    for at, group in enumerate(groups):
        if group.id in names:
            problems.add(("groups", at, "id"), f"{group.id} stands twice; write another id")
        names.add(group.id)
        for number, instance in enumerate(group.instances):
            path: Path = ("groups", at, "instances", number)
            if instance.id in seen:
                problems.add((*path, "id"), f"{instance.id} stands twice; write another id")
            seen.add(instance.id)
            _check_instance(instance, path, nodes, problems)
            if instance.state is not InstanceState.FAILED:
                for name, gpus in instance.nodes.items():
                    held[name] = held.get(name, 0) + max(0, gpus)
    return held


def _check_instance(instance: PlanInstance, path: Path, nodes: dict[str, PlanNode], problems: Problems) -> None:
    if not instance.nodes:
        problems.add((*path, "nodes"), "is empty; write the nodes and GPUs that it holds, such as {a1-1: 8}")
    for name, gpus in instance.nodes.items():
        if name not in nodes:
            text = f"{name} of instance {instance.id} is not a node of this fleet; add it under nodes or correct the name"
            problems.add((*path, "nodes", name), text)
        if gpus < 1:
            problems.add((*path, "nodes", name), f"{gpus} GPUs is not possible; write 1 or more")
    if len({nodes[name].gpu_type for name in instance.nodes if name in nodes}) > 1:
        problems.add((*path, "nodes"), "lie on several GPU types; an instance has one")


def _check_held(shape: PlanFleet, groups: list[PlanGroup], held: dict[str, int], problems: Problems) -> None:
    for at, node in enumerate(shape.nodes):
        total = held.get(node.node, 0)
        if total and node.used + total > node.gpus:
            holders = ", ".join(sorted({group.id for group in groups for one in group.instances if node.node in one.nodes}))
            cure = "used counts only what no group lists" if node.used else "correct the instances or gpus"
            text = f"{node.node} has {node.gpus} GPUs, but {total} are held by {holders} and {node.used} are used; {cure}"
            problems.add(("nodes", at), text)


def _group(group: PlanGroup, nodes: dict[str, PlanNode]) -> Group:
    instances = [
        PlacedInstance(
            id=one.id,
            role=one.role,
            part=one.part,
            replica=one.replica,
            gpu_type=one.gpu_type or nodes[next(iter(one.nodes))].gpu_type,
            nodes=one.nodes,
            state=one.state,
            since_ms=one.since_ms,
            routable=one.state is InstanceState.READY if one.routable is None else one.routable,
        )
        for one in group.instances
    ]
    return Group(
        id=group.id,
        domain=group.domain or Domain(),
        pool=group.pool or Pool.LOW,
        degraded=group.degraded,
        degraded_reason=group.degraded_reason,
        instances=instances,
    )
