"""Seating the needs in a given set of s1: all in one, or over as few as possible with whole units kept together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Spread
from heteroscale.placement.planning.fits import View
from heteroscale.placement.planning.ledger import Vector
from heteroscale.placement.planning.site import APART, Seat, Site, gpus_by_node
from heteroscale.placement.planning.topology import CLUSTER, S1, S2
from heteroscale.placement.planning.units import Demand, Needs, Shape

ORDERS_MAX = 6
"""Role orders tried where roles compete for several GPU types."""


@dataclass(slots=True)
class Fill:
    """Needs being seated. `sites` are scratch copies of the s1 touched so far, in the order they were touched."""

    view: View
    demand: Demand
    marks: Mapping[int, Sequence[RoleName]] = field(default_factory=dict)
    sites: dict[int, Site] = field(default_factory=dict)
    seats: list[Seat] = field(default_factory=list)

    def site(self, s1: int) -> Site:
        """The scratch copy of an s1."""
        if s1 not in self.sites:
            ledger, spread = self.view.ledger, self.demand.spread
            site = Site.of(ledger, s1, self.view.banned_in(s1), spread if spread in APART else Spread.NONE)
            if self.marks and spread in APART:
                first, last = ledger.nodes_of(s1)
                for node in range(first, last):
                    for role in self.marks.get(node, ()):
                        site.mark(role, node)
            self.sites[s1] = site
        return self.sites[s1]

    @property
    def ranks(self) -> int:
        """How far from preferred the seats' GPU types are, summed."""
        return sum([seat.rank for seat in self.seats])


def fresh(fill: Fill) -> Fill:
    """The same question, nothing seated yet."""
    return Fill(view=fill.view, demand=fill.demand, marks=fill.marks)


def orders(demand: Demand, needs: Mapping[RoleName, int]) -> tuple[tuple[RoleName, ...], ...]:
    """Role orders worth trying: least choice first, then large before small; others only where types compete."""
    shapes = demand.shapes
    roles = frozenset(needs)
    found = demand.memo.orders.get(roles)
    if found is None:
        first = sorted(needs, key=lambda role: (len(shapes[role].types), -shapes[role].largest, role))
        compete = sum(len(shapes[role].types) > 1 for role in needs) > 1 or len({shapes[role].largest for role in needs}) > 1
        found = tuple(itertools.islice(itertools.permutations(first), ORDERS_MAX if compete else 1))
        demand.memo.orders[roles] = found
    return found


def into_one(blank: Fill, s1: int, needs: Needs) -> Fill | None:
    """All needs in one s1, with as few replicas as possible on less preferred types."""
    best: Fill | None = None
    for order in orders(blank.demand, needs):
        fill = fresh(blank)
        site = fill.site(s1)
        for role in order:
            if _seat_role(fill, site, blank.demand.shapes[role], needs[role]) < needs[role]:
                break
        else:
            ranks = fill.ranks
            if ranks == 0:
                return fill
            if best is None or ranks < best.ranks:
                best = fill
    return best


def into_many(blank: Fill, s1s: npt.NDArray[np.int64], needs: Needs, begun: Sequence[int] = ()) -> Fill | None:
    """All needs over the s1 given, as few of them as the greedy finds; `begun` are touched already and cost nothing."""
    fill = fresh(blank)
    left = _typed(blank, s1s, needs)
    if left is not None and _spread_over(fill, s1s, left, begun) and not left:
        return fill
    for order in orders(blank.demand, needs):
        thorough = _one_by_one(fresh(blank), s1s, needs, order, begun)
        if thorough is not None:
            return thorough
    return None


def _seat_role(fill: Fill, site: Site, shape: Shape, count: int, only: int | None = None) -> int:
    """Seat up to `count` replicas in a site, preferred types first; how many it was."""
    seated = 0
    for rank, code in shape.types:
        if seated < count and (only is None or only == code):
            seats = site.seats(shape, code, rank, count - seated)
            fill.seats.extend(seats)
            seated += len(seats)
    return seated


Typed = dict[tuple[RoleName, int], int]
"""Replicas per role and GPU type."""


def _typed(blank: Fill, s1s: npt.NDArray[np.int64], needs: Needs) -> Typed | None:
    """Share the needs out over GPU types so that few are less preferred; None if the types cannot hold them."""
    best: tuple[int, Typed] | None = None
    for order in orders(blank.demand, needs):
        taken: dict[int, list[tuple[int, int]]] = {}
        typed: Typed = {}
        ranks = 0
        for role in order:
            shape, count = blank.demand.shapes[role], needs[role]
            for rank, code in shape.types:
                here = min(count, _room(blank.view, s1s, shape, code, taken.get(code, [])))
                if here > 0:
                    typed[role, code] = here
                    taken.setdefault(code, []).append((blank.view.ledger.effective(code, shape.gpus), here))
                    ranks += rank * here
                    count -= here
            if count:
                break
        else:
            if ranks == 0:
                return typed
            if best is None or ranks < best[0]:
                best = (ranks, typed)
    return None if best is None else best[1]


def _room(view: View, s1s: npt.NDArray[np.int64], shape: Shape, code: int, taken: list[tuple[int, int]]) -> int:
    """About how many replicas of the shape the s1 hold on a type beside what is taken."""
    ledger = view.ledger
    largest = shape.largest
    if shape.within in (S2, CLUSTER):
        largest = min(largest, ledger.sizes(code)[0])
    slots = int(view.slots(code, largest)[s1s].sum())
    each = sum(max(1, ledger.effective(code, piece.gpus) // largest) for piece in shape.pieces) if largest != shape.largest else 1
    if len(shape.pieces) > 1 and largest == shape.largest:
        each = sum(piece.gpus == largest for piece in shape.pieces)
    used = sum(count * max(1, -(-size // largest)) if size >= largest else -(-count * size // largest) for size, count in taken)
    return max(0, slots - used) // max(1, each)


def _spread_over(fill: Fill, s1s: npt.NDArray[np.int64], left: Typed, begun: Sequence[int]) -> bool:
    """Fill s1 after s1: the one that finishes with least left over, else the one that hosts most. False when stuck."""
    ledger = fill.view.ledger
    free = ledger.free[s1s]
    begun_here = np.isin(s1s, np.array(begun, dtype=np.int64)) if len(begun) else None
    closed: list[int] = []
    while left and len(closed) < len(s1s):
        hosted = _hosted(fill, s1s, left)
        hosted[closed] = 0
        most = 0
        if begun_here is not None:
            useful = np.where(begun_here, hosted, 0)
            most = int(np.maximum.reduce(useful))
            hosted = useful if most else hosted
        most = most or int(np.maximum.reduce(hosted))
        if most == 0:
            return False
        tied = (hosted == most).nonzero()[0]
        if len(tied) > 1:
            tied = tied[free[tied] == np.minimum.reduce(free[tied])]
        at = int(tied[0]) if len(tied) == 1 else int(np.searchsorted(s1s, ledger.signatures.first_of(ledger.avail, s1s[tied])))
        closed.append(at)
        before = len(fill.seats)
        _fill_site(fill, fill.site(int(s1s[at])), left)
        if len(fill.seats) == before:
            del fill.sites[int(s1s[at])]
    return not left


def _hosted(fill: Fill, s1s: npt.NDArray[np.int64], left: Typed) -> Vector:
    """GPUs of what is left that each s1 could host, all types together."""
    view, ledger, shapes = fill.view, fill.view.ledger, fill.demand.shapes
    demand: dict[int, int] = {}
    finest: dict[int, int] = {}
    for (role, code), count in left.items():
        shape = shapes[role]
        demand[code] = demand.get(code, 0) + count * sum(ledger.effective(code, piece.gpus) for piece in shape.pieces)
        size = shape.pieces[-1].gpus
        if shape.within in (S2, CLUSTER):
            size = min(size, ledger.sizes(code)[0])
        finest[code] = min(finest.get(code, size), size)
    each = [np.minimum(gpus, view.slots(code, finest[code])[s1s] * ledger.effective(code, finest[code])) for code, gpus in demand.items()]
    hosted: Vector = each[0] if len(each) == 1 else np.add.reduce(each)
    return hosted


def _fill_site(fill: Fill, site: Site, left: Typed) -> None:
    """Seat as much of what is left as the site holds: whole units first, then singles, large before small."""
    demand = fill.demand
    order = sorted({role for role, _ in left}, key=lambda role: (-demand.shapes[role].largest, role))
    unit = demand.unit
    while unit and unit.keys() <= {role for role, _ in left}:
        if not all(_seat_some(fill, site, left, role, share) for role, share in unit.items()):
            break
    for role in order:
        _seat_some(fill, site, left, role, sum(count for (name, _), count in left.items() if name == role))


def _seat_some(fill: Fill, site: Site, left: Typed, role: RoleName, count: int) -> bool:
    """Seat up to `count` of a role, of what is left; True if that many were."""
    shape = fill.demand.shapes[role]
    for _, code in shape.types:
        want = min(count, left.get((role, code), 0))
        if want:
            seated = _seat_role(fill, site, shape, want, only=code)
            count -= seated
            if seated == left[role, code]:
                del left[role, code]
            else:
                left[role, code] -= seated
    return count == 0


def _one_by_one(fill: Fill, s1s: npt.NDArray[np.int64], needs: Needs, order: Sequence[RoleName], begun: Sequence[int]) -> Fill | None:
    """The thorough way: each replica in the first s1 that takes it, touched ones before others, fuller ones before emptier."""
    ledger = fill.view.ledger
    by_structure = ledger.signatures.order(ledger.avail, s1s, S1)
    by_room = sorted(by_structure.tolist(), key=lambda s1: (s1 not in begun, int(ledger.free[s1])))
    for role in order:
        shape = fill.demand.shapes[role]
        for _ in range(needs[role]):
            sites = [*(s1 for s1 in by_room if s1 in fill.sites), *(s1 for s1 in by_room if s1 not in fill.sites)]
            if not _seat_anywhere(fill, sites, shape):
                return None
    return fill


def _seat_anywhere(fill: Fill, sites: list[int], shape: Shape) -> bool:
    for rank, code in shape.types:
        slots = fill.view.slots(code, shape.largest)
        for s1 in sites:
            if s1 in fill.sites or slots[s1]:
                seat = fill.site(s1).seat(shape, code, rank)
                if seat is not None:
                    fill.seats.append(seat)
                    return True
        if shape.within in (S2, CLUSTER):
            seat = _across(fill, sites, shape, (rank, code))
            if seat is not None:
                fill.seats.append(seat)
                return True
    return False


def _across(fill: Fill, sites: list[int], shape: Shape, choice: tuple[int, int]) -> Seat | None:
    """One replica over several s1 of its `within` domain, in as few of them as have most room."""
    rank, code = choice
    topology = fill.view.ledger.topology
    of = topology.s2_of_s1 if shape.within is S2 else topology.cluster_of_s1
    for domain in sorted({int(of[s1]) for s1 in sites}):
        inside = [s1 for s1 in sites if int(of[s1]) == domain]
        nodes = {node: free for s1 in inside for node, free in fill.site(s1).free.items()}
        seat = Site(fill.view.ledger, nodes).seat(shape, code, rank)
        if seat is not None:
            for node, gpus in gpus_by_node([seat]).items():
                fill.site(int(topology.levels[S1].of[node])).hold(node, gpus)
            return seat
    return None
