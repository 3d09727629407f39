"""Small fleets and requests for planner tests: terse to write, checked by one referee that knows only the contracts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from heteroscale.contracts.commands import Command, CommandRole
from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.contracts.names import DecisionId
from heteroscale.contracts.placements import Domain, Group, InstanceState, PlacedInstance, Pool
from heteroscale.contracts.spec import Affinity, AffinityMode, GpuChoice, Level, PartSpec
from heteroscale.placement.planning.model import IdSource, Planned, Request, Snapshot
from heteroscale.placement.planning.topology import Topology

LIVE = (InstanceState.RESERVED, InstanceState.STARTING, InstanceState.READY)


def node(path: str, gpu_type: str = "H20", gpus: int = 8, *, state: str = "ready", name: str | None = None) -> FleetNode:
    """A node at `cluster/s2/s1[/s0]/node`."""
    parts = path.split("/")
    s0 = parts[3] if len(parts) == 5 else None
    at = NodeAt(cluster=parts[0], s2=parts[1], s1=parts[2], s0=s0)
    return FleetNode(node=name or parts[-1], fleet="f", gpu_type=gpu_type, gpus=gpus, at=at, state=NodeState(state))


def pod(path: str, count: int, gpu_type: str = "H20", gpus: int = 8) -> list[FleetNode]:
    """`count` nodes in one s1 at `cluster/s2/s1`, named after it."""
    prefix = path.replace("/", "-")
    return [node(f"{path}/{prefix}-{gpu_type}-{at}", gpu_type, gpus) for at in range(count)]


def running(
    name: str, service: str, instances: Mapping[str, tuple[str, dict[str, int]]], states: Mapping[str, str] | None = None, **more: Any
) -> tuple[str, Group]:
    """A group that runs: instance id to (role, nodes)."""
    placed = [
        PlacedInstance(
            id=one,
            role=role,
            gpu_type="H20",
            nodes=nodes,
            state=InstanceState((states or {}).get(one, "ready")),
            since_ms=0,
            routable=True,
        )
        for one, (role, nodes) in instances.items()
    ]
    return service, Group(id=name, domain=more.pop("domain", Domain()), pool=more.pop("pool", Pool.LOW), instances=placed, **more)


def snapshot(nodes: Iterable[FleetNode], groups: Sequence[tuple[str, Group]] = (), used: Mapping[str, int] | None = None) -> Snapshot:
    """The snapshot of a fleet with groups that run and GPUs that others use."""
    topology = Topology.build("f", nodes)
    free = topology.gpus.copy()
    for name, gpus in (used or {}).items():
        free[topology.index[name]] -= gpus
    assignments: dict[str, tuple[Group, ...]] = {}
    for service, group in groups:
        assignments[service] = (*assignments.get(service, ()), group)
        for instance in group.instances:
            if instance.state is not InstanceState.FAILED:
                for name, gpus in instance.nodes.items():
                    free[topology.index[name]] -= gpus
    return Snapshot(topology=topology, free=free, state=topology.state, assignments=assignments)


def role(replicas: int, gpus: int = 8, *types: str, draining: int = 0, **more: Any) -> CommandRole:
    """A role on the types given, preferred first (H20 if none)."""
    parts = {name: PartSpec(count=count, gpus=size) for name, (count, size) in more.pop("parts", {}).items()} or None
    chosen = [GpuChoice(type=name) for name in types or ("H20",)]
    return CommandRole(replicas=replicas, draining=draining, gpus=gpus, gpu_types=chosen, parts=parts, **more)


def request(service: str, roles: Mapping[str, CommandRole], *, level: str = "s2", mode: str = "required", **more: Any) -> Request:
    """A request; keywords are fields of Command, `waited_ms` and `arrival` of Request."""
    waited, arrival, life = more.pop("waited_ms", 0), more.pop("arrival", 0), more.pop("life", "1.1")
    command = Command(
        id=DecisionId("d"),
        revision=1,
        service=service,
        fleet="f",
        at_ms=1_000,
        decision_id=DecisionId("d"),
        roles=dict(roles),
        affinity=Affinity(level=Level(level), mode=AffinityMode(mode)),
        **more,
    )
    return Request(command=command, ids=IdSource(service, life), waited_ms=waited, arrival=arrival)


def pair(service: str, prefill: int, decode: int, gpus: int = 8, **more: Any) -> Request:
    """Prefill and decode instances of one size on H20, ratio 1:2 unless told otherwise."""
    more.setdefault("ratio", {"prefill": 1, "decode": 2})
    return request(service, {"prefill": role(prefill, gpus), "decode": role(decode, gpus)}, **more)


def new_instances(planned: Planned) -> list[PlacedInstance]:
    """Instances born in the plan."""
    born = {change.instance for change in planned.transitions if change.before is None}
    return [instance for group in planned.assignment for instance in group.instances if instance.id in born]


def nodes_of(planned: Planned, name: str | None = None) -> list[str]:
    """Nodes of new instances (of a role), sorted."""
    return sorted(node for one in new_instances(planned) if name in (None, one.role) for node in one.nodes)


def counts(planned: Planned, states: Sequence[InstanceState] = LIVE) -> dict[str, int]:
    """Instances per role in the assignment, in these states."""
    found: dict[str, int] = {}
    for group in planned.assignment:
        for instance in group.instances:
            if instance.state in states:
                found[instance.role] = found.get(instance.role, 0) + 1
    return found


def check_sound(view: Snapshot, requests: Sequence[Request], answers: Sequence[Planned]) -> None:
    """No GPU given twice, none on a node that takes nothing, groups inside their domain, born with all roles, nothing else moved."""
    topology = view.topology
    free = {name: int(view.free[at]) for name, at in topology.index.items()}
    for asked, answer in zip(requests, answers, strict=True):
        taken: dict[str, int] = {}
        for instance in new_instances(answer):
            kind = {topology.types[topology.type[topology.index[name]]] for name in instance.nodes}
            assert {instance.gpu_type} == kind
            for name, gpus in instance.nodes.items():
                assert int(view.state[topology.index[name]]) == 0
                taken[name] = taken.get(name, 0) + gpus
        assert dict(answer.taken) == taken
        for name, gpus in taken.items():
            assert gpus <= free[name]
            if not answer.dry_run:
                free[name] -= gpus
        _check_groups(view, asked, answer)


def _check_groups(view: Snapshot, asked: Request, answer: Planned) -> None:
    topology, command = view.topology, asked.command
    assert command.affinity is not None
    ratio = command.ratio or {name: role.replicas for name, role in command.roles.items() if role.replicas}
    for group in answer.assignment:
        live = [one for one in group.instances if one.state in LIVE]
        places = {topology.index[name] for one in live for name in one.nodes}
        for at in places:
            path = topology.levels[Level.S1].paths[topology.levels[Level.S1].of[at]]
            told = (group.domain.cluster, group.domain.s2, group.domain.s1)
            assert all(part in (None, own) for part, own in zip(told, path, strict=True))
        if group.id in answer.born:
            assert {name for name, share in ratio.items() if share} <= {one.role for one in live}
            domains = {int(topology.levels[command.affinity.level].of[at]) for at in places}
            assert command.affinity.mode is AffinityMode.PREFERRED or len(domains) == 1
    served = counts(answer)
    for name, wanted in command.roles.items():
        if not wanted.parts:
            assert served.get(name, 0) + answer.shortfall.get(name, 0) == wanted.replicas
