"""A service's assignment while a cycle works on it: members (replicas) by group and standing, and what became of them.

Owns the counting rules (what serves, what drains, what is gone) and the writing of the new assignment. Chooses nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from heteroscale.contracts.names import InstanceName, RoleName
from heteroscale.contracts.placements import Group, InstanceState, PlacedInstance
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.model import Request, Snapshot, Transition
from heteroscale.placement.planning.site import Seat
from heteroscale.placement.planning.topology import LOST, S1, WIDTH, Topology
from heteroscale.placement.planning.units import Needs

_RESERVED = InstanceState.RESERVED
_PENDING = (_RESERVED, InstanceState.STARTING)


class Standing(enum.IntEnum):
    """What a replica is worth now, in falling order: up to PENDING it serves or will, up to DRAINING it is there."""

    READY = 0
    PENDING = 1
    DRAINING = 2
    STOPPING = 3
    DEAD = 4


_SERVING: Final = Standing.PENDING
_EXISTING: Final = Standing.DRAINING
"""The last standings that serve, and that are there."""


@dataclass(slots=True)
class Member:
    """One replica: its instances (several if it is made of parts) and how it stands after the cycle so far."""

    role: RoleName
    replica: int | None
    instances: list[PlacedInstance]
    standing: Standing

    @property
    def id(self) -> InstanceName:
        """The name by which replicas are told apart."""
        return self.instances[0].id

    @property
    def serving(self) -> bool:
        """Counts toward `replicas`."""
        return self.standing <= _SERVING

    @property
    def existing(self) -> bool:
        """Assigned, neither failed nor stopping."""
        return self.standing <= _EXISTING


@dataclass(slots=True)
class GroupBook:
    """A group: its record, if it has one, and its members."""

    id: str
    record: Group | None
    members: list[Member]
    wider: bool = False
    debt: Needs = field(default_factory=dict)

    def count(self, role: RoleName) -> int:
        """Replicas of a role that serve."""
        return sum(member.role == role and member.serving for member in self.members)

    def live(self) -> Iterator[PlacedInstance]:
        """Instances that are there: serving or draining."""
        for member in self.members:
            if member.existing:
                yield from member.instances


@dataclass(slots=True)
class Book:
    """The working copy of one service's assignment."""

    request: Request
    topology: Topology
    groups: list[GroupBook]
    transitions: dict[InstanceName, Transition] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    born_groups: list[str] = field(default_factory=list)
    _instances: int = 0
    _replicas: dict[RoleName, int] = field(default_factory=dict)

    @classmethod
    def open(cls, snapshot: Snapshot, request: Request) -> Book:
        """Read the assignment; instances on lost nodes become failed here."""
        groups = sorted(snapshot.assignments.get(request.command.service, ()), key=lambda group: group.id)
        book = cls(request=request, topology=snapshot.topology, groups=[])
        for group in groups:
            members = _members(group, book._parts())
            shelf = GroupBook(id=group.id, record=group, members=members)
            book.groups.append(shelf)
            for member in members:
                if member.replica is not None:
                    book._replicas[member.role] = max(book._replicas.get(member.role, -1), member.replica)
                if any(_on_lost(snapshot, instance) for instance in member.instances):
                    book._lose(snapshot, shelf, member)
        return book

    def _parts(self) -> dict[RoleName, int]:
        """Instances a whole replica has, for roles that are made of parts."""
        roles = self.request.command.roles
        return {name: sum(part.count for part in role.parts.values()) for name, role in roles.items() if role.parts}

    def members(self) -> Iterator[tuple[GroupBook, Member]]:
        """All replicas with their group."""
        for group in self.groups:
            for member in group.members:
                yield group, member

    def serving(self, role: RoleName) -> int:
        """Replicas of a role that serve or will."""
        return sum(member.role == role and member.serving for _, member in self.members())

    def existing(self, role: RoleName) -> int:
        """Replicas of a role that serve or drain."""
        return sum(member.role == role and member.existing for _, member in self.members())

    def begun(self, group: GroupBook) -> list[int]:
        """The s1 that the group's instances lie in, sorted."""
        of, index = self.topology.levels[S1].of, self.topology.index
        return sorted({int(of[index[node]]) for instance in group.live() for node in instance.nodes if node in index})

    def home(self, group: GroupBook, level: Level) -> tuple[Level, int] | None:
        """The domain in which the group may grow under a ceiling; None if it cannot be told."""
        index = self.topology.index
        nodes = [index[node] for instance in group.live() for node in instance.nodes if node in index]
        if not nodes:
            nodes = [index[node] for member in group.members for one in member.instances for node in one.nodes if node in index]
        span = self.topology.spanned(nodes)
        if span is None or WIDTH[span[0]] >= WIDTH[level]:
            return span
        return level, int(self.topology.levels[level].of[nodes[0]])

    def move(self, group: GroupBook, member: Member, to: InstanceState, reason: str) -> None:
        """Put a replica into another state; it is noted once per instance."""
        standing = {
            InstanceState.READY: Standing.READY,
            InstanceState.DRAINING: Standing.DRAINING,
            InstanceState.STOPPING: Standing.STOPPING,
        }
        member.standing = standing[to]
        member.instances = [self._to(group, instance, to, reason) for instance in member.instances]

    def seat(self, group: GroupBook, seats: Iterable[Seat], member: Member | None = None) -> None:
        """Add new replicas to a group, or the missing parts of a broken one."""
        for seat in seats:
            replica = None
            if len(seat.pieces) > 1 or seat.pieces[0][0].part is not None:
                replica = member.replica if member is not None else self._replicas.get(seat.role, -1) + 1
                self._replicas[seat.role] = max(self._replicas.get(seat.role, -1), replica or 0)
            born = [self._birth(seat, replica, piece.part, nodes) for piece, nodes in seat.pieces]
            if member is not None:
                member.instances = [*member.instances, *born]
                member.standing = Standing.PENDING
            else:
                group.members.append(Member(seat.role, replica, born, _SERVING))
        self.touched.add(group.id)

    def open_group(self) -> GroupBook:
        """A group that is born now."""
        group = GroupBook(id=self.request.ids.group(len(self.born_groups)), record=None, members=[])
        self.groups.append(group)
        self.born_groups.append(group.id)
        return group

    def _birth(self, seat: Seat, replica: int | None, part: str | None, nodes: Mapping[int, int]) -> PlacedInstance:
        topology, names = self.topology, self.topology.names
        name = self.request.ids.instance(seat.role, part, self._instances)
        self._instances += 1
        self.transitions[name] = Transition(name, None, _RESERVED, "placed")
        return PlacedInstance(
            id=name,
            role=seat.role,
            part=part,
            replica=replica,
            gpu_type=topology.types[seat.type],
            nodes={names[node]: nodes[node] for node in (nodes if len(nodes) == 1 else sorted(nodes))},
            state=_RESERVED,
            since_ms=self.request.command.at_ms,
        )

    def _lose(self, snapshot: Snapshot, group: GroupBook, member: Member) -> None:
        """A node under the replica is lost: its instances there fail, and a replica is dead with any of them."""
        if member.standing in (Standing.READY, Standing.PENDING, Standing.DRAINING):
            member.standing = Standing.DEAD
        member.instances = [
            self._to(group, instance, InstanceState.FAILED, "node_lost")
            if _on_lost(snapshot, instance) and instance.state is not InstanceState.FAILED
            else instance
            for instance in member.instances
        ]

    def _to(self, group: GroupBook, instance: PlacedInstance, to: InstanceState, reason: str) -> PlacedInstance:
        if instance.state in (to, InstanceState.FAILED) or (to is InstanceState.READY and instance.state is not InstanceState.DRAINING):
            return instance
        if to not in (InstanceState.STOPPING, InstanceState.FAILED):
            self.touched.add(group.id)
        before = self.transitions.get(instance.id)
        self.transitions[instance.id] = Transition(instance.id, before.before if before else instance.state, to, reason)
        return msgspec.structs.replace(instance, state=to, since_ms=self.request.command.at_ms, routable=to is InstanceState.READY)


def _on_lost(snapshot: Snapshot, instance: PlacedInstance) -> bool:
    index = snapshot.topology.index
    return any(node in index and snapshot.state[index[node]] == LOST for node in instance.nodes)


def _members(group: Group, parts: Mapping[RoleName, int]) -> list[Member]:
    """Instances bundled into replicas; a part without a replica number is a replica of its own."""
    bundles: dict[tuple[RoleName, int | None, InstanceName | None], list[PlacedInstance]] = {}
    for instance in sorted(group.instances, key=lambda one: one.id):
        alone = None if instance.replica is not None else instance.id
        bundles.setdefault((instance.role, instance.replica, alone), []).append(instance)
    return [
        Member(role=role, replica=replica, instances=instances, standing=_standing(instances, parts.get(role, 1)))
        for (role, replica, _), instances in bundles.items()
    ]


def _standing(instances: list[PlacedInstance], parts: int) -> Standing:
    live = [instance for instance in instances if instance.state is not InstanceState.FAILED]
    states = {instance.state for instance in live}
    if InstanceState.STOPPING in states:
        return Standing.STOPPING
    if len(live) < parts or not live:
        return Standing.DEAD
    if InstanceState.DRAINING in states:
        return Standing.DRAINING
    return Standing.PENDING if states.intersection(_PENDING) else Standing.READY
