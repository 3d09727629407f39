"""Why a request was placed as it was: best domain, what it could give, who holds it, what would fix it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from heteroscale.contracts.commands import Command
from heteroscale.contracts.names import RoleName, ServiceName
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning import exact, fits, search
from heteroscale.placement.planning.fill import Fill
from heteroscale.placement.planning.ledger import Ledger
from heteroscale.placement.planning.model import PlanReason
from heteroscale.placement.planning.topology import Topology
from heteroscale.placement.planning.units import Demand, Needs

Place = tuple[Level, int]


def best_domain(blank: Fill, needs: Needs, level: Level, freed: Ledger) -> Place | None:
    """The domain of a level that comes nearest to holding the needs: most units, then the largest share, then structure.

    One that could not hold them (a unit of them, if they may come in units) even in `freed`, where nothing is held, comes
    after all that could. None if the fleet has no node of the types that a role asks for.
    """
    ledger, demand = blank.view.ledger, blank.demand
    number = len(ledger.topology.levels[level])
    if not number or not all(demand.shapes[role].types for role in needs):
        return None
    units = np.zeros(number, dtype=np.int64)
    whole = demand.units_in(needs)
    if whole:
        bound = fits.units_at_most(ledger, fits.conditions(blank.view, demand, demand.times(1)), level)
        units = np.minimum(whole, bound)
    share: np.ndarray[tuple[int], np.dtype[np.int64]] = np.full(number, 1 << 20, dtype=np.int64)
    for condition in fits.conditions(blank.view, demand, needs):
        share = np.minimum(share, (ledger.over(level, condition.slots) << 20) // max(1, condition.need))
    target = demand.wanted_at_once(needs)
    hope = fits.holds(freed, fits.conditions(fits.View(freed, {}), demand, target), level)
    key = (hope.astype(np.int64) << 60) + (units << 24) + share
    best = np.flatnonzero(key == key.max())
    return level, ledger.signatures.order(ledger.avail, best, level)[0].item()


def available(blank: Fill, place: Place, taken: Mapping[int, int]) -> Needs:
    """What a domain could give all roles together before `taken`: as many units as it holds, then more of each role until none fits."""
    ledger, demand = blank.view.ledger, blank.demand
    first, last = ledger.range_of(*place)
    room = exact.room_in(blank.view, demand, place, {node: gpus for node, gpus in taken.items() if first <= ledger.lists.s1[node] < last})
    if room is not None:
        return exact.most_given(room, demand.unit, sorted(demand.shapes))
    ledger.give(taken)
    given = _available(blank, place)
    ledger.take(taken)
    return given


def _available(blank: Fill, place: Place) -> Needs:
    """The same where it has to be tried."""
    demand = blank.demand
    first, last = blank.view.ledger.range_of(*place)
    given = demand.times(_most(blank, place, {}, demand.times(1)))
    most = max(demand.unit.values(), default=0)
    for share in range(most - 1, 0, -1):
        part = {role: count * share // most for role, count in demand.unit.items() if count * share // most}
        if part and search.inside(blank, _plus(given, part, 1), place) is not None:
            given = _plus(given, part, 1)
            break
    for role in sorted(demand.shapes):
        if last > first and demand.shapes[role].types:
            given = _plus(given, {role: 1}, _most(blank, place, given, {role: 1}))
    return {role: given.get(role, 0) for role in demand.shapes}


def _plus(given: Needs, more: Mapping[RoleName, int], times: int) -> Needs:
    total = dict(given)
    for role, count in more.items():
        if count * times:
            total[role] = total.get(role, 0) + count * times
    return total


def _most(blank: Fill, place: Place, given: Needs, more: Needs) -> int:
    """How often `more` fits beside what is given."""
    if not more:
        return 0
    first, last = blank.view.ledger.range_of(*place)
    low, high = 0, 1 << 20
    for condition in fits.conditions(blank.view, blank.demand, more):
        high = min(high, int(condition.slots[first:last].sum()) // max(1, condition.need))
    probe = high
    while low < high:
        if search.inside(blank, _plus(given, more, probe), place) is not None:
            low = probe
        else:
            high = probe - 1
        probe = (low + high + 1) // 2
    return low


def missing_reason(blank: Fill, needs: Needs, homes: list[Place] | None, level: Level) -> PlanReason:
    """no_capacity: the fleet lacks the GPUs; no_domain: no one domain has them; fragmented: one has, but not in this form.

    `homes`: the domains of the groups, for needs that only a group can take; null if a new group could.
    """
    ledger = blank.view.ledger
    amounts = _amounts(blank.view, blank.demand, needs)
    if any(int(slots.sum()) < need for slots, need in amounts):
        return PlanReason.NO_CAPACITY
    if homes is not None:
        ranges = [ledger.range_of(*home) for home in homes]
        enough = any(all(int(slots[first:last].sum()) >= need for slots, need in amounts) for first, last in ranges)
    else:
        per_domain = [ledger.over(level, slots) >= need for slots, need in amounts]
        enough = bool(np.logical_and.reduce(per_domain).any()) if per_domain else False
    return PlanReason.FRAGMENTED if enough else PlanReason.NO_DOMAIN


def _amounts(view: fits.View, demand: Demand, needs: Needs) -> list[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int]]:
    """GPUs there are and GPUs wanted, for every set of types that roles are confined to."""
    shapes = [(demand.shapes[role], count) for role, count in needs.items()]
    sets = {frozenset(code for _, code in shape.types) for shape, _ in shapes}
    sets.add(frozenset[int]().union(*sets))
    found = []
    for types in sorted(sets, key=lambda codes: (len(codes), sorted(codes))):
        inside = [(shape, count) for shape, count in shapes if {code for _, code in shape.types} <= types]
        slots = np.zeros(view.ledger.pools, dtype=np.int64)
        for code in sorted(types):
            slots = slots + view.slots(code, 1)
        found.append((slots, sum(shape.gpus * count for shape, count in inside)))
    return found


_DONE: Final[Mapping[PlanReason, str]] = {
    PlanReason.PLACED: "placed in new groups",
    PlanReason.GROWN: "placed into existing groups",
    PlanReason.RESTORED: "draining instances restored",
    PlanReason.RELEASED: "surplus instances released",
    PlanReason.UNCHANGED: "nothing to do",
}
_MISSING: Final[Mapping[PlanReason, str]] = {
    PlanReason.NO_CAPACITY: "the fleet has too few free GPUs of the types asked for{holders}; add nodes or free some",
    PlanReason.NO_DOMAIN: "enough GPUs are free, but in no one domain{holders}; free some there or allow a wider affinity",
    PlanReason.FRAGMENTED: "one domain has the GPUs, but in pieces{holders}; drain part-used nodes there",
    PlanReason.HELD_FOR_PRIORITY: "the GPUs that fit are held back for a queued request of higher priority{holders}",
    PlanReason.WAITING_PREFERRED: "waiting up to {waits_ms} ms for the preferred level",
    PlanReason.NODE_LOST: "lost with their nodes, and no room to replace them in their group's domain{holders}",
}


def unknown_types(topology: Topology, command: Command, roles: Iterable[RoleName]) -> str:
    """The roles that ask for GPU types of which the fleet has none, with the types that it has; empty if there are none."""
    asked = {role: [choice.type for choice in command.roles[role].gpu_types] for role in sorted(roles) if role in command.roles}
    foreign = [f"{role} asks for {' or '.join(types)}" for role, types in asked.items() if types and not set(types) & set(topology.types)]
    there = f"{', '.join(topology.types)} only" if topology.types else "no nodes"
    return f"{', '.join(foreign)}, and the fleet has {there}" if foreign else ""


def text_of(reason: PlanReason, shortfall: Needs, blocked_by: list[ServiceName], waits_ms: int, unknown: str = "") -> str:
    """One sentence for people: what is missing and what would fix it. `unknown`: the types asked for that the fleet has not."""
    if reason in _DONE:
        return _DONE[reason]
    lack = ", ".join(f"{count} {role}" for role, count in sorted(shortfall.items()))
    if unknown:
        return f"{lack} not placed: {unknown}; add such nodes or allow a type that is there"
    holders = f" ({', '.join(blocked_by)} there)" if blocked_by else ""
    return f"{lack} not placed: " + _MISSING[reason].format(holders=holders, waits_ms=waits_ms)
