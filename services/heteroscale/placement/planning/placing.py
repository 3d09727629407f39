"""Placing one request: replacements, growth before birth, whole units, leftovers."""

from __future__ import annotations

from heteroscale.contracts.placements import InstanceState
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning import search
from heteroscale.placement.planning.book import GroupBook, Member, Standing
from heteroscale.placement.planning.site import Site, gpus_by_node
from heteroscale.placement.planning.topology import CLUSTER, LEVELS, S1, WIDTH
from heteroscale.placement.planning.units import Demand, Needs, Piece, Shape, subtract
from heteroscale.placement.planning.work import Step, Work


def levels_of(demand: Demand) -> tuple[Level, ...]:
    """Ceilings in the order they are tried."""
    return LEVELS[WIDTH[demand.level] : WIDTH[demand.widest] + 1]


def place(work: Work) -> Needs:
    """Phase 4 for one request; what could not be placed. `work.waiting` tells that it waits for its preferred level."""
    if not work.book.groups:
        wanted = subtract(work.rest, work.drafted()) if work.draft.steps else work.rest
        return dict(sorted(try_levels(work, wanted).items())) if wanted else {}
    lost = replace_lost(work)
    revived = work.demand.times(work.demand.units_in(lost))
    wanted = subtract(work.rest, lost)
    for role, count in revived.items():
        wanted[role] = wanted.get(role, 0) + count
    left = try_levels(work, wanted) if wanted else {}
    if revived and not left:
        _forgive(work, revived)
        lost = subtract(lost, revived)
    elif revived:
        left = subtract(left, revived)
    for role, count in lost.items():
        left[role] = left.get(role, 0) + count
    return dict(sorted(left.items()))


def place_early(work: Work, units: int) -> None:
    """Place this many units now; what is asked for later comes on top."""
    if work.divisible and units < work.units:
        try_levels(work, work.demand.times(units))


def replace_lost(work: Work) -> Needs:
    """Replace what failed inside its group's domain, one by one; what could not be is the group's debt."""
    lost: Needs = {}
    rest = dict(work.rest)
    for group in work.book.groups:
        group.debt = {}
        dead = [member for member in group.members if member.standing is Standing.DEAD]
        share = work.demand.unit
        dead.sort(key=lambda one: (group.count(one.role) / share.get(one.role, 1), one.role, one.id))
        for member in dead:
            alive = [one for one in member.instances if one.state is not InstanceState.FAILED]
            if rest.get(member.role, 0) <= 0:
                if alive:
                    work.book.move(group, member, InstanceState.STOPPING, "scale_in")
                continue
            rest[member.role] -= 1
            if not (alive and _mend(work, group, member)) and not _renew(work, group, member):
                group.debt[member.role] = group.debt.get(member.role, 0) + 1
                lost[member.role] = lost.get(member.role, 0) + 1
    work.rest = subtract(work.rest, work.drafted())
    return lost


def _renew(work: Work, group: GroupBook, member: Member) -> bool:
    """A whole new replica in the group's domain."""
    for level in levels_of(work.demand):
        home = work.home(group, level)
        found = None if home is None else search.inside(work.blank, {member.role: 1}, home, work.begun(group))
        if found is not None:
            work.draft.add(Step.of(group, found, born=False))
            if any(one.state is not InstanceState.FAILED for one in member.instances):
                work.book.move(group, member, InstanceState.STOPPING, "scale_in")
            return True
    return False


def _mend(work: Work, group: GroupBook, member: Member) -> bool:
    """The missing parts of a broken replica, beside those that live."""
    shape, topology = work.demand.shapes[member.role], work.book.topology
    alive = [one for one in member.instances if one.state is not InstanceState.FAILED]
    missing = list(shape.pieces)
    for one in alive:
        match = next((piece for piece in missing if piece.part == one.part), None)
        if match is None:
            return False
        missing.remove(match)
    nodes = [topology.index[node] for one in alive for node in one.nodes if node in topology.index]
    ranges = topology.levels[shape.within]
    if not nodes or not missing:
        return False
    domain = int(ranges.of[nodes[0]])
    first, last = int(ranges.first[domain]), int(ranges.first[domain + 1])
    avail = work.view.ledger.free_in(first, last)
    banned = work.view.banned_in(int(topology.levels[S1].of[nodes[0]]))
    free = {first + at: gpus for at, gpus in enumerate(avail) if gpus and work.view.ledger.lists.type[first + at] not in banned}
    code = int(topology.type[nodes[0]])
    rank = next((rank for rank, other in shape.types if other == code), 0)
    seat = Site(work.view.ledger, free).seat(_repair_shape(shape, missing), code, rank)
    if seat is None:
        return False
    work.draft.add(Step(group, (seat,), gpus_by_node([seat]), born=False, member=member))
    return True


def _repair_shape(shape: Shape, missing: list[Piece]) -> Shape:
    return Shape(role=shape.role, pieces=tuple(missing), types=shape.types, within=CLUSTER, gpus=sum(piece.gpus for piece in missing))


def _forgive(work: Work, revived: Needs) -> None:
    """Units placed elsewhere settle the debts of the groups that lost most."""
    left = dict(revived)
    for group in sorted(work.book.groups, key=lambda one: (sum(member.serving for member in one.members), one.id)):
        for role in sorted(group.debt):
            settled = min(group.debt[role], left.get(role, 0))
            group.debt[role] -= settled
            left[role] = left.get(role, 0) - settled
        group.debt = {role: count for role, count in group.debt.items() if count}


def try_levels(work: Work, wanted: Needs) -> Needs:
    """Under each ceiling in turn; while the request may still wait, only where its preferred level holds."""
    demand, request = work.demand, work.book.request
    if request.waited_ms >= request.command.wait_ms:
        return _settle(work, wanted)
    preferred = min(WIDTH[demand.prefer], WIDTH[demand.level])
    if preferred >= max(WIDTH[demand.widest], WIDTH[demand.level]):
        return _settle(work, wanted)
    if not _whole(work, wanted, LEVELS[max(preferred, WIDTH[S1])]):
        return {}
    start = len(work.draft.steps)
    left = _settle(work, wanted)
    work.waiting = left != wanted
    work.draft.back_to(start)
    return wanted if work.waiting else left


def _settle(work: Work, wanted: Needs) -> Needs:
    left = wanted
    for level in levels_of(work.demand):
        left = _whole(work, left, level) if work.demand.whole else _by_units(work, left, level)
        if not left:
            break
    return left


def _whole(work: Work, wanted: Needs, level: Level) -> Needs:
    """All of it by growth, or all of it as one new group, or nothing."""
    start = len(work.draft.steps)
    if not _grow(work, wanted, level):
        return {}
    work.draft.back_to(start)
    return {} if work.demand.opens(wanted) and _open(work, wanted, level) else wanted


def _by_units(work: Work, wanted: Needs, level: Level) -> Needs:
    """Growth, then new groups in whole units, then leftovers; a second time with the leftovers first if that falls short."""
    start = len(work.draft.steps)
    left = _open_units(work, _grow(work, wanted, level), level)
    if not left:
        return left
    extra = subtract(wanted, work.demand.times(work.demand.units_in(wanted)))
    if not extra or not work.demand.units_in(wanted):
        return left
    first = list(work.draft.steps[start:])
    work.draft.back_to(start)
    unjoined = _join(work, extra, level)
    second = _open_units(work, _grow(work, subtract(wanted, extra), level), level)
    for role, count in unjoined.items():
        second[role] = second.get(role, 0) + count
    if _gpus(work, second) < _gpus(work, left):
        return second
    work.draft.back_to(start)
    for step in first:
        work.draft.add(step)
    return left


def _gpus(work: Work, needs: Needs) -> int:
    return sum(work.demand.shapes[role].gpus * count for role, count in needs.items())


def _grow(work: Work, wanted: Needs, level: Level) -> Needs:
    """Into existing groups: all in one if one takes it, else whole units over several, then what is left after whole units."""
    if not wanted or not work.groups():
        return wanted
    if _grow_one(work, wanted, level):
        return {}
    left = dict(wanted)
    while units := work.demand.units_in(left):
        room = [(_units_in(work, group, level, units), group) for group in work.groups()]
        most, group = max(room, key=lambda one: one[0])
        home = work.home(group, level)
        if most == 0 or home is None:
            return left
        found = search.inside(work.blank, work.demand.times(most), home, work.begun(group))
        if found is None:
            return left
        work.draft.add(Step.of(group, found, born=False))
        left = subtract(left, work.demand.times(most))
    return _join(work, left, level)


def _units_in(work: Work, group: GroupBook, level: Level, limit: int) -> int:
    home = work.home(group, level)
    return 0 if home is None else search.units_inside(work.blank, home, limit, work.begun(group))


def _grow_one(work: Work, wanted: Needs, level: Level) -> bool:
    """All of it into the one group where it costs least; a group that lacks these roles comes before one that does not."""
    best: tuple[tuple[int, search.Cost, str], GroupBook, search.Found] | None = None
    for group in work.groups():
        home = work.home(group, level)
        found = None if home is None else search.inside(work.blank, wanted, home, work.begun(group))
        if found is not None:
            key = (-_lack(work, group, wanted), found.cost, group.id)
            if best is None or key < best[0]:
                best = (key, group, found)
    if best is None:
        return False
    work.draft.add(Step.of(best[1], best[2], born=False))
    return True


def _lack(work: Work, group: GroupBook, wanted: Needs) -> int:
    """How many of the wanted replicas the group's ratio is short of."""
    unit = work.demand.unit
    units = max((-(-work.count(group, role) // share) for role, share in unit.items()), default=0)
    return sum(min(wanted.get(role, 0), max(0, units * share - work.count(group, role))) for role, share in unit.items())


def _open(work: Work, wanted: Needs, level: Level) -> bool:
    """A new group with all of it, in the best domain."""
    found = search.find(work.blank, wanted, level)
    if found is None:
        return False
    work.draft.add(Step.of(GroupBook(id="", record=None, members=[]), found, born=True))
    return True


def _open_units(work: Work, wanted: Needs, level: Level) -> Needs:
    """New groups: all in one domain if one takes it, else as many whole units as fit, the most that one domain takes first."""
    left = dict(wanted)
    while left and work.demand.opens(left):
        if _open(work, left, level):
            return {}
        units = work.demand.units_in(left)
        most = search.most_units(work.blank, units, level) if units else 0
        if most == 0 or not _open(work, work.demand.times(most), level):
            break
        left = subtract(left, work.demand.times(most))
    return _join(work, left, level) if not work.demand.units_in(left) else _join_outside(work, left, level)


def _join_outside(work: Work, wanted: Needs, level: Level) -> Needs:
    """Roles outside the ratio join a group whatever becomes of the units."""
    outside = {role: count for role, count in wanted.items() if role not in work.demand.unit}
    unjoined = _join(work, outside, level)
    return subtract(wanted, subtract(outside, unjoined))


def _join(work: Work, wanted: Needs, level: Level) -> Needs:
    """What is less than a unit joins groups: together, else the largest even share, else role by role outside the ratio."""
    left = dict(wanted)
    if not left or not work.groups() or _grow_one(work, left, level):
        return {} if work.groups() else left
    inside = {role: count for role, count in left.items() if role in work.demand.unit}
    most = max(inside.values(), default=0)
    share = most
    while share > 0 and inside:
        part = {role: count * share // most for role, count in inside.items() if count * share // most}
        if part and _grow_one(work, part, level):
            left = subtract(left, part)
            inside = {role: left[role] for role in inside if role in left}
            most = max(inside.values(), default=0)
            share = min(share, most)
        else:
            share -= 1
    for role in sorted(set(left).difference(work.demand.unit)):
        while left.get(role, 0) and _grow_one(work, {role: 1}, level):
            left = subtract(left, {role: 1})
    return left
