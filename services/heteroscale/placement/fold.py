"""One cycle of the service, pure: records since the last one and the fleet as it stands give gangs, dry-run answers and quarantines.

    1 commands: newest per service        2 acknowledgements        3 lost nodes, leases, start deadlines
    4 adoption                            5 plan                    6 gate, Placement, gang

What a cycle frees is not available in it: the next one sees it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.names import NodeName, ServiceName
from heteroscale.contracts.placements import Conflict, DegradedReason, Domain, InstanceState, Placement, PlacementInputs
from heteroscale.placement import adoption, life, record
from heteroscale.placement.draft import Draft
from heteroscale.placement.inventory.entries import GroupEntry, NodeEntry
from heteroscale.placement.inventory.gang import Basis, Gang, Transition, gang_id
from heteroscale.placement.inventory.memory import command_order
from heteroscale.placement.planning import planner
from heteroscale.placement.planning.model import IdSource, Request
from heteroscale.placement.state import FleetState, suspects

Event = Command | Actuation


@dataclass(frozen=True, slots=True)
class CycleInput:
    """Records since the last cycle, in order, and what the Placement says of its origin.

    `moved`: nodes that now sit elsewhere although they hold something. `refused`: gangs of this cycle that the inventory refused,
    per service; then only those services are planned again. `blind`: plan as if no GPU were free, so that a command is taken into
    the inventory although its gangs were refused again and again. `restate`: services to be written again although nothing changed.
    """

    events: Sequence[Event]
    number: int
    cut: Mapping[str, int]
    moved: frozenset[NodeName] = frozenset()
    refused: Mapping[ServiceName, Sequence[Conflict]] = field(default_factory=dict)
    blind: bool = False
    restate: frozenset[ServiceName] = frozenset()


@dataclass(slots=True)
class Counts:
    """What happened to records that left no other trace."""

    stale_commands: int = 0
    repeated_commands: int = 0
    left_alone: int = 0
    late_acknowledgements: int = 0
    unknown_instances: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a cycle would do. Nothing of it is true before the inventory says so."""

    now_ms: int
    gangs: tuple[Gang, ...]
    answers: tuple[Placement, ...]
    quarantine: Mapping[NodeName, NodeEntry]
    moves: Mapping[ServiceName, Sequence[Transition]]
    counts: Counts


def propose(state: FleetState, given: CycleInput) -> Proposal:
    """The cycle. Pure: equal input gives equal bytes."""
    counts = Counts()
    now_ms = max([state.now_ms, *(event.at_ms for event in given.events if isinstance(event, Command))])
    drafts = _Drafts(state)
    dry_runs = _fold_commands(drafts, given.events, counts)
    _fold_acknowledgements(drafts, given.events, now_ms, counts)
    _fold_time(drafts, now_ms)
    _fold_moves(drafts, given.moved)
    for service in sorted(given.restate):
        if (draft := drafts.of(service)) is not None:
            draft.touched = True
    quarantine = adoption.adopt_all(state, drafts.open_drafts(), now_ms)
    only = given.refused.keys() if given.refused else None
    answers = _plan(drafts, dry_runs if only is None else {}, now_ms, given)
    gangs: list[Gang] = []
    moves: dict[ServiceName, Sequence[Transition]] = {}
    for draft in drafts.open_drafts():
        if not (draft.touched or draft.answers) or (only is not None and draft.service not in only):
            continue
        draft.settle()
        gangs.append(_gang(state, draft, now_ms, given))
        moves[draft.service] = draft.transitions
    return Proposal(now_ms, tuple(gangs), tuple(answers), quarantine, moves, counts)


def waits(state: FleetState) -> bool:
    """Whether a service asks for more than it has."""
    return any(any(known.entry.shortfall.values()) for known in state.services.values())


class _Drafts:
    """Drafts, opened when first needed."""

    def __init__(self, state: FleetState) -> None:
        self.state = state
        self._open: dict[ServiceName, Draft] = {}

    def of(self, service: ServiceName) -> Draft | None:
        """The draft of a known service."""
        if service not in self._open and service in self.state.services:
            self._open[service] = Draft.of(service, self.state.services[service])
        return self._open.get(service)

    def opened(self, service: ServiceName) -> Draft | None:
        """The draft of a service that has one already."""
        return self._open.get(service)

    def born(self, command: Command) -> Draft:
        """The draft of a service that was not known."""
        draft = Draft(service=command.service, seq=0, command=command, first_at_ms=command.at_ms, answers=True)
        self._open[command.service] = draft
        return draft

    def open_drafts(self) -> list[Draft]:
        """All of them, by name."""
        return [self._open[name] for name in sorted(self._open)]


def _fold_commands(drafts: _Drafts, events: Sequence[Event], counts: Counts) -> dict[ServiceName, Command]:
    """Newest real command per service into its draft; newest dry run per service returned."""
    dry_runs: dict[ServiceName, Command] = {}
    for command in (event for event in events if isinstance(event, Command)):
        if command.affinity is None:
            counts.left_alone += 1
        elif command.dry_run:
            known = dry_runs.get(command.service)
            if known is None or command_order(command) > command_order(known):
                dry_runs[command.service] = command
        else:
            draft = drafts.of(command.service)
            if draft is None:
                drafts.born(command)
            elif command_order(command) > command_order(draft.command):
                draft.obey(command)
            elif command_order(command) == command_order(draft.command):
                counts.repeated_commands += 1
            else:
                counts.stale_commands += 1
    return dry_runs


def _fold_acknowledgements(drafts: _Drafts, events: Sequence[Event], now_ms: int, counts: Counts) -> None:
    for event in (event for event in events if isinstance(event, Actuation)):
        known = drafts.state.services.get(event.service)
        draft = drafts.of(event.service) if known is not None and event.instance in known.instances else None
        entry = draft.instances.get(event.instance) if draft is not None else None
        if draft is None or entry is None:
            counts.unknown_instances += 1
            continue
        step = life.acknowledge(event.instance, entry, event.kind, now_ms)
        if step is None:
            counts.late_acknowledgements += 1
        else:
            draft.take(step, now_ms)


def _fold_time(drafts: _Drafts, now_ms: int) -> None:
    """Lost nodes, leases and start deadlines of all services."""
    state = drafts.state
    lost = state.frame.lost
    for service, known in sorted(state.services.items()):
        oldest_ms = known.oldest_start_ms
        late = oldest_ms is not None and now_ms - oldest_ms >= known.entry.command.start_deadline_ms
        draft = drafts.of(service) if late or not lost.isdisjoint(known.nodes) else drafts.opened(service)
        if draft is not None:
            _age(draft, lost, now_ms)


def _age(draft: Draft, lost: Collection[NodeName], now_ms: int) -> None:
    deadline_ms = draft.command.start_deadline_ms
    known = frozenset(name for name, entry in draft.instances.items() if entry.state is not InstanceState.FAILED or entry.cause is not None)
    for name, entry in sorted(draft.instances.items()):
        step = (
            life.lose_node(name, entry, lost, now_ms)
            or life.expire(name, entry, lost, now_ms)
            or life.overdue(name, entry, deadline_ms, now_ms, known)
        )
        if step is not None:
            draft.take(step, now_ms)


def _fold_moves(drafts: _Drafts, moved: frozenset[NodeName]) -> None:
    """A group that holds a node which now sits outside the group's domain keeps it, and says so."""
    if not moved:
        return
    for service in sorted(drafts.state.services):
        draft = drafts.of(service)
        if draft is None:
            continue
        for _, entry in sorted(draft.instances.items()):
            for node in sorted(moved & entry.nodes.keys()):
                if not _inside(drafts.state.nodes[node], draft.groups[entry.group].domain):
                    _degrade(draft, entry.group)


def _degrade(draft: Draft, group: str) -> None:
    kept = draft.groups[group]
    after = GroupEntry(domain=kept.domain, pool=kept.pool, degraded=True, degraded_reason=DegradedReason.MOVED)
    draft.touched |= after != kept
    draft.groups[group] = after


def _inside(node: NodeEntry, domain: Domain) -> bool:
    at = node.record.at
    pairs = ((domain.cluster, at.cluster), (domain.s2, at.s2), (domain.s1, at.s1))
    return all(wanted is None or wanted == actual for wanted, actual in pairs)


def _plan(drafts: _Drafts, dry_runs: Mapping[ServiceName, Command], now_ms: int, given: CycleInput) -> list[Placement]:
    """Plan every service with work on one snapshot, fold the answers into the drafts; answers to dry runs are returned."""
    state = drafts.state
    for service in sorted(state.services):
        if any(state.services[service].entry.shortfall.values()):
            drafts.of(service)
    working = [draft for draft in drafts.open_drafts() if draft.answers or draft.touched or any(draft.shortfall.values())]
    requests = [
        Request(draft.wanted(), IdSource(draft.service, f"{state.gen}.{draft.seq}"), draft.first_at_ms, now_ms - draft.first_at_ms)
        for draft in working
    ]
    requests += [
        Request(command, IdSource(service, f"{state.gen}.dry.{command.at_ms}"), command.at_ms)
        for service, command in sorted(dry_runs.items())
    ]
    if not requests:
        return []
    adopted: dict[NodeName, int] = {}
    for draft in working:
        for node, gpus in draft.adopts.items():
            adopted[node] = adopted.get(node, 0) + gpus
    snapshot = state.snapshot({draft.service: draft.assignment() for draft in drafts.open_drafts()}, adopted, _suspect(drafts))
    if given.blind:
        snapshot = replace(snapshot, free=np.zeros_like(snapshot.free))
    answers: list[Placement] = []
    real = {draft.service: draft for draft in working}
    inputs = PlacementInputs(cycle=given.number, cut=dict(sorted(given.cut.items())))
    for planned in planner.plan(snapshot, requests):
        if planned.dry_run:
            answers.append(record.dry(dry_runs[planned.service], planned, state.gen, now_ms, inputs))
        else:
            real[planned.service].follow(planned, now_ms)
    return answers


def _suspect(drafts: _Drafts) -> frozenset[NodeName]:
    """Nodes on which a start is overdue: its replacement goes elsewhere, and so does everybody else's."""
    opened = {draft.service: draft for draft in drafts.open_drafts()}
    quiet = (known.suspect for service, known in drafts.state.services.items() if service not in opened)
    return frozenset[NodeName]().union(*quiet, *(suspects(draft.instances.values()) for draft in opened.values()))


def _gang(state: FleetState, draft: Draft, now_ms: int, given: CycleInput) -> Gang:
    """The one write that makes a draft true."""
    conflicts = [*given.refused.get(draft.service, ()), *draft.conflicts]
    inputs = PlacementInputs(cycle=given.number, cut=dict(sorted(given.cut.items())), conflicts=conflicts)
    placement = record.real(draft, state.gen, now_ms, inputs)
    command = draft.command
    payload = codec.encode(placement)
    basis = Basis(
        service=draft.service,
        gen=state.gen,
        fence=state.fence,
        seq=draft.seq,
        command=(command.id, command.revision, command.at_ms),
    )
    return Gang(
        id=gang_id(basis, draft.transitions, payload),
        fleet=state.fleet,
        service=draft.service,
        gen=state.gen,
        fence=state.fence,
        seq=draft.seq,
        cycle=given.number,
        state=draft.entry(draft.seq + 1),
        puts=draft.changed_instances(),
        born=frozenset(name for name in draft.instances if name not in draft.before),
        drops=sorted(draft.before.keys() - draft.instances.keys()),
        takes=dict(draft.takes),
        adopts=dict(draft.adopts),
        frees=dict(draft.frees),
        at_ms=now_ms,
        payload=payload,
    )
