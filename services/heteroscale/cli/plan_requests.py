"""REQUESTS.yaml of `heteroscale plan`: short forms to Commands; every mistake with place and cure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from heteroscale.cli.plan_reading import Problems
from heteroscale.contracts.commands import Command, CommandRole
from heteroscale.contracts.message import Message
from heteroscale.contracts.names import DecisionId
from heteroscale.contracts.placements import Group, InstanceState, PlacedInstance
from heteroscale.contracts.spec import Affinity, GpuChoice, Level, Partial, PartSpec, ReadyRatio, Spread
from heteroscale.contracts.units import Duration
from heteroscale.decision.specs.problems import Path
from heteroscale.placement.planning.model import IdSource, Request, Snapshot
from heteroscale.placement.planning.topology import LOST


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


def requests(asked: PlanRequests, snapshot: Snapshot, problems: Problems) -> list[Request]:
    """What is asked for, on a fleet that is known. Raises SpecInvalid with all that is wrong."""
    fleet = snapshot.topology.fleet
    seen: set[tuple[str, bool]] = set()
    made: list[Request] = []
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
            made.append(Request(command=_command(request, fleet, snapshot), ids=IdSource(request.service, "plan")))
    problems.settle()
    return made


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
