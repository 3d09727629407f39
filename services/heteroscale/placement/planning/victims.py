"""Who comes back and who goes: restoring what drains, and the order of victims of a scale-in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.placements import InstanceState
from heteroscale.placement.planning.book import Book, GroupBook, Member, Standing
from heteroscale.placement.planning.topology import S1
from heteroscale.placement.planning.units import Demand, Needs

Seated = tuple[GroupBook, Member]


def restore(book: Book, demand: Demand) -> None:
    """Phase 1: where more is wanted in service than serves, draining replicas return: first those of groups that lost a serving one."""
    for role, wanted in sorted(book.request.command.roles.items()):
        missing = wanted.replicas - book.serving(role)
        if missing <= 0:
            continue
        draining = [(group, member) for group, member in book.members() if member.role == role and member.standing is Standing.DRAINING]
        last = {id(group): at for at, group in enumerate(_in_order(book, demand))}
        draining.sort(key=lambda one: (not _lost(one[0], role), -last[id(one[0])], one[1].id))
        for group, member in draining[:missing]:
            book.move(group, member, InstanceState.READY, "restored")


def scale_in(book: Book, demand: Demand) -> None:
    """Phase 2: what exceeds `replicas` goes: what drains already first, then what is not ready, then victims in order.

    What is not ready stops at once; of the rest up to `draining` drains and the others stop. Roles that the command does
    not name keep what they have.
    """
    roles = book.request.command.roles
    excess = {role: book.existing(role) - wanted.replicas for role, wanted in sorted(roles.items())}
    if not any(count > 0 for count in excess.values()):
        return
    for role, victims in _chosen(book, demand, excess).items():
        for group, member in victims:
            if member.standing is Standing.PENDING:
                book.move(group, member, InstanceState.STOPPING, "not_ready")
        ready = [one for one in victims if one[1].standing is not Standing.STOPPING]
        for at, (group, member) in enumerate(ready):
            drains = at < roles[role].draining
            book.move(group, member, InstanceState.DRAINING if drains else InstanceState.STOPPING, "scale_in")


def _chosen(book: Book, demand: Demand, excess: Needs) -> dict[RoleName, list[Seated]]:
    """Who goes, by role: what drains, what is not ready, then of what is ready."""
    chosen: dict[RoleName, list[Seated]] = {role: [] for role in excess}
    groups = _in_order(book, demand)
    for standing in (Standing.DRAINING, Standing.PENDING):
        for group in groups:
            for member in _by_value(book, group, standing):
                if excess.get(member.role, 0) > 0:
                    excess[member.role] -= 1
                    chosen[member.role].append((group, member))
    left = {role: count for role, count in excess.items() if count > 0}
    for group, member in _ready_victims(book, groups, demand, left):
        chosen[member.role].append((group, member))
    return chosen


def _in_order(book: Book, demand: Demand) -> list[GroupBook]:
    """Groups, first victim first: degraded, then of the rarest pool, then smallest, then by id."""
    pools = {id(group): max((int(book.topology.pool[s1]) for s1 in book.begun(group)), default=0) for group in book.groups}

    def size(group: GroupBook) -> int:
        return sum(sum(instance.nodes.values()) for instance in group.live())

    def degraded(group: GroupBook) -> bool:
        return bool(group.record is not None and group.record.degraded) or any(_lost(group, role) for role in demand.unit)

    return sorted(book.groups, key=lambda group: (not degraded(group), -pools[id(group)], size(group), group.id))


@dataclass(slots=True)
class _Stock:
    """Ready replicas by group, first victim first, and how many of each role are still to go."""

    book: Book
    left: Needs
    victims: list[Seated] = field(default_factory=list)
    _ready: dict[int, list[Member]] = field(default_factory=dict)

    def of(self, group: GroupBook) -> list[Member]:
        """What of a group is not picked yet."""
        if id(group) not in self._ready:
            self._ready[id(group)] = _by_value(self.book, group, Standing.READY)
        return self._ready[id(group)]

    def have(self, group: GroupBook, role: RoleName) -> int:
        """Replicas of a role that are not picked yet."""
        return sum(member.role == role for member in self.of(group))

    def wanted(self, role: RoleName) -> int:
        """Victims of a role still to be found."""
        return max(0, self.left.get(role, 0))

    def pick(self, group: GroupBook, role: RoleName, count: int) -> None:
        """Make up to `count` of them victims."""
        picked = [member for member in self.of(group) if member.role == role][: max(0, count)]
        self._ready[id(group)] = [member for member in self.of(group) if member not in picked]
        self.victims.extend((group, member) for member in picked)
        self.left[role] = self.left.get(role, 0) - len(picked)

    def beyond_ratio(self, group: GroupBook, role: RoleName, unit: Mapping[RoleName, int]) -> int:
        """Replicas of a role that the group's other roles have no use for."""
        others = [-(-self.have(group, name) // share) for name, share in unit.items() if name != role]
        if role not in unit or not others:
            return self.have(group, role)
        return self.have(group, role) - max(others) * unit[role]


def _ready_victims(book: Book, groups: Sequence[GroupBook], demand: Demand, left: Needs) -> list[Seated]:
    """Whole groups and whole units first, both roles of a group together; then what a group has beyond its ratio; then any."""
    stock = _Stock(book, left)
    for group in groups:
        _pick_together(stock, group, demand.unit)
    for role in sorted(left):
        for group in groups:
            stock.pick(group, role, min(stock.wanted(role), stock.beyond_ratio(group, role, demand.unit)))
        for group in groups:
            stock.pick(group, role, min(stock.wanted(role), stock.have(group, role) - 1))
        for group in groups:
            stock.pick(group, role, stock.wanted(role))
    return stock.victims


def _pick_together(stock: _Stock, group: GroupBook, unit: Mapping[RoleName, int]) -> None:
    """All of a group if all of it may go, else as many whole units as may."""
    roles = sorted({member.role for member in stock.of(group)})
    if all(stock.have(group, role) <= stock.wanted(role) for role in roles):
        for role in roles:
            stock.pick(group, role, stock.have(group, role))
        return
    units = min((min(stock.wanted(role), stock.have(group, role)) // share for role, share in unit.items()), default=0)
    for role, share in unit.items():
        stock.pick(group, role, units * share)


def _by_value(book: Book, group: GroupBook, standing: Standing) -> list[Member]:
    """Members of a standing, first victim first: in the rarest pool, in the s1 where the group has least, then by id."""
    of, index, pool = book.topology.levels[S1].of, book.topology.index, book.topology.pool

    def s1(member: Member) -> int:
        known = [index[node] for node in member.instances[0].nodes if node in index]
        return int(of[min(known)]) if known else -1

    members = [member for member in group.members if member.standing is standing]
    if not members:
        return members
    places = {id(member): s1(member) for member in group.members}
    count = Counter(places[id(member)] for member in group.members if member.existing)

    def value(member: Member) -> tuple[int, int, str]:
        at = places[id(member)]
        return (-int(pool[at]) if at >= 0 else 1, count[at], member.id)

    return sorted(members, key=value)


def _lost(group: GroupBook, role: RoleName) -> bool:
    return any(member.role == role and member.standing is Standing.DEAD for member in group.members)
