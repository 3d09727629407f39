"""FLEET.yaml and REQUESTS.yaml of `heteroscale plan`: short forms to a snapshot and requests, every mistake with place and cure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from heteroscale.cli import files
from heteroscale.contracts.commands import Command, CommandRole
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.contracts.message import Message
from heteroscale.contracts.names import DecisionId
from heteroscale.contracts.placements import DegradedReason, Domain, Group, InstanceState, PlacedInstance, Pool
from heteroscale.contracts.spec import Affinity, GpuChoice, Level, Partial, PartSpec, ReadyRatio, Spread
from heteroscale.contracts.units import Duration
from heteroscale.decision.specs.problems import Path, Problem, SpecInvalid
from heteroscale.decision.specs.reading import Reading
from heteroscale.placement.planning.model import IdSource, Request, Snapshot
from heteroscale.placement.planning.topology import LOST, Topology
from heteroscale.placement.topologies.importers import GPUS_MAX

T = TypeVar("T")


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


class PlanRole(Message, frozen=True, kw_only=True):
    """A role of a request; `add` may stand for `replicas`."""

    replicas: int | None = None
    add: int | None = None
    draining: int | None = None
    gpus: int | None = None
    gpu_types: list[GpuChoice] = msgspec.field(default_factory=list)
    parts: dict[str, PartSpec] | None = None
    within: Level | None = None


class PlanRequest(Message, frozen=True, kw_only=True):
    """A Command in short form; what a Command carries beyond a plan may stand there and changes nothing."""

    service: str
    roles: dict[str, PlanRole]
    priority: int = 100
    ratio: dict[str, int] | None = None
    affinity: Affinity | None = Affinity()
    prefer: Level | None = Level.S1
    wait: Duration | None = None
    wait_ms: int | None = None
    partial: Partial = Partial.WHOLE_UNITS
    spread: Spread = Spread.NONE
    dry_run: bool = False
    fleet: str | None = None
    id: str | None = None
    revision: int | None = None
    at_ms: int | None = None
    decision_id: str | None = None
    ready_ratio: ReadyRatio | None = None
    start_deadline_ms: int | None = None


class PlanRequests(Message, frozen=True, kw_only=True):
    """REQUESTS.yaml."""

    requests: list[PlanRequest]


class Problems:
    """What is wrong with one file, all of it at once."""

    def __init__(self, located: files.Located) -> None:
        self.located = located
        self.found: list[Problem] = []

    def add(self, path: Path, text: str) -> None:
        """Note a mistake and its cure."""
        self.found.append(Problem(path, text))

    def settle(self) -> None:
        """Raise SpecInvalid if anything was noted."""
        if self.found:
            raise SpecInvalid(self.found, self.located.place, self.located.place_of)


class PlanInput(NamedTuple):
    """What `plan` plans."""

    snapshot: Snapshot
    requests: list[Request]


@files.many_objects()
def load(fleet: str, requests: str) -> PlanInput:
    """Both files. Raises Rejected with place and cure."""
    shape, problems = _read(fleet, PlanFleet, "nodes")
    return load_requests(requests, _snapshot(shape, problems))


def load_requests(requests: str, snapshot: Snapshot) -> PlanInput:
    """The requests on a fleet that is known. Raises Rejected with place and cure."""
    asked, problems = _read(requests, PlanRequests, "requests")
    return PlanInput(snapshot, _requests(asked, snapshot.topology.fleet, snapshot, problems))


def _read(path: str, kind: type[T], key: str) -> tuple[T, Problems]:
    documents = files.read_yaml(path)
    if len(documents) != 1:
        raise Rejected("plan", f"holds {len(documents)} documents; write one with {key}: […]", path)
    problems = Problems(documents[0])
    reading = Reading()
    document: Any = documents[0].document
    value: T = reading.value(inspect.type_info(kind), document, ())
    problems.found.extend(reading.problems)
    problems.settle()
    return value, problems


def _snapshot(shape: PlanFleet, problems: Problems) -> Snapshot:
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


def _requests(asked: PlanRequests, fleet: str, snapshot: Snapshot, problems: Problems) -> list[Request]:
    seen: set[tuple[str, bool]] = set()
    requests: list[Request] = []
    for at, request in enumerate(asked.requests):
        path: Path = ("requests", at)
        if (request.service, request.dry_run) in seen:
            problems.add((*path, "service"), f"{request.service} stands twice; a request states all that a service wants, write one")
        seen.add((request.service, request.dry_run))
        if request.fleet not in (None, fleet):
            problems.add((*path, "fleet"), f"{request.fleet} is not the fleet of the plan; write {fleet} or leave it out")
        if not request.roles:
            problems.add((*path, "roles"), "is empty; write roles: {decode: {replicas: 2, gpus: 8}}")
        _check_roles(request, path, problems)
        if request.wait is not None and request.wait_ms is not None:
            problems.add((*path, "wait_ms"), "stands beside wait; keep one of them")
        if not problems.found:
            requests.append(Request(command=_command(request, fleet, snapshot), ids=IdSource(request.service, "plan")))
    problems.settle()
    return requests


def _check_roles(request: PlanRequest, path: Path, problems: Problems) -> None:
    for name, role in request.roles.items():
        here: Path = (*path, "roles", name)
        counts = {"replicas": role.replicas, "add": role.add}
        if (role.replicas is None) == (role.add is None):
            cure = "keep one of them" if role.add is not None else "write replicas: N, or add: N for that many more than run now"
            problems.add(here, f"has {'both replicas and add' if role.add is not None else 'neither replicas nor add'}; {cure}")
        for key, count in (*counts.items(), ("draining", role.draining)):
            if count is not None and count < 0:
                problems.add((*here, key), f"{count} is negative; write 0 or more")
        _check_gpus(role, here, problems)
    for name, share in (request.ratio or {}).items():
        if name not in request.roles:
            problems.add((*path, "ratio", name), f"is not a role of {request.service}; there is {', '.join(sorted(request.roles))}")
        elif share < 1:
            problems.add((*path, "ratio", name), f"{share} is not possible; write 1 or more, or leave the role out")


def _check_gpus(role: PlanRole, here: Path, problems: Problems) -> None:
    parts = role.parts or {}
    total = sum(spec.count * spec.gpus for spec in parts.values())
    if role.gpus is None and not parts:
        problems.add((*here, "gpus"), "is missing; write the GPUs of one instance, such as gpus: 8")
    elif role.gpus is not None and role.gpus < 1:
        problems.add((*here, "gpus"), f"{role.gpus} is not possible; write 1 or more")
    elif parts and role.gpus not in (None, total):
        problems.add((*here, "gpus"), f"{role.gpus} is not the sum of the parts; write {total} or leave it out")
    for part, spec in parts.items():
        if spec.count < 1 or spec.gpus < 1:
            problems.add((*here, "parts", part), "needs count and gpus of 1 or more")


def _command(request: PlanRequest, fleet: str, snapshot: Snapshot) -> Command:
    roles = {name: _role(name, role, request.service, snapshot) for name, role in request.roles.items()}
    ratio = request.ratio
    added = {name: role.add for name, role in request.roles.items() if role.add}
    if ratio is None and len(added) == len(roles):
        ratio = added  # the counts asked for, where all roles are asked for as additions
    return Command(
        id=DecisionId(request.id or "plan"),
        revision=request.revision or 1,
        service=request.service,
        fleet=fleet,
        at_ms=request.at_ms or 0,
        decision_id=DecisionId(request.decision_id or "plan"),
        priority=request.priority,
        roles=roles,
        ratio=ratio,
        affinity=request.affinity,
        prefer=request.prefer,
        wait_ms=request.wait.ms if request.wait is not None else request.wait_ms or 0,
        partial=request.partial,
        spread=request.spread,
        dry_run=request.dry_run,
    )


def _role(name: str, role: PlanRole, service: str, snapshot: Snapshot) -> CommandRole:
    """`add` counts from what runs: reserved, starting and ready instances on nodes that are not lost."""
    serving, draining = _running(snapshot, service, name)
    replicas = role.replicas if role.replicas is not None else serving + (role.add or 0)
    kept = draining if role.replicas is None else 0
    return CommandRole(
        replicas=replicas,
        draining=role.draining if role.draining is not None else kept,
        gpus=role.gpus or sum(part.count * part.gpus for part in (role.parts or {}).values()),
        gpu_types=role.gpu_types,
        parts=role.parts,
        within=role.within,
    )


def _running(snapshot: Snapshot, service: str, role: str) -> tuple[int, int]:
    """Serving and draining replicas of a role; a replica runs if all its parts do."""
    states: dict[object, list[InstanceState]] = {}
    for instance in _instances(snapshot.assignments.get(service, ())):
        if instance.role == role:
            lost = any(_lost(snapshot, node) for node in instance.nodes)
            key = instance.id if instance.replica is None else instance.replica
            states.setdefault(key, []).append(InstanceState.FAILED if lost else instance.state)
    gone = {InstanceState.FAILED, InstanceState.STOPPING}
    running = [set(found) for found in states.values() if not gone.intersection(found)]
    draining = sum(InstanceState.DRAINING in found for found in running)
    return len(running) - draining, draining


def _instances(groups: Iterable[Group]) -> Iterable[PlacedInstance]:
    return (instance for group in groups for instance in group.instances)


def _lost(snapshot: Snapshot, node: str) -> bool:
    at = snapshot.topology.index[node]
    return bool(snapshot.state[at] == LOST)
