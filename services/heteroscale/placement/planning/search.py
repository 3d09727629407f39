"""Choosing domains: the cheapest place for the needs.

Among the domains that can hold them, minimise, in this order: instances on less preferred GPU types, pool class, s1 touched,
GPUs left over in touched s1, structure, path name. Conditions over all s1 at once name the candidates with a lower bound of
that key each; candidates are filled in the order of their bounds, until no bound undercuts the best fill (branch and bound).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.spec import Level
from heteroscale.placement.planning import fits
from heteroscale.placement.planning.fill import Fill, into_many, into_one
from heteroscale.placement.planning.ledger import Ledger, Mask
from heteroscale.placement.planning.site import gpus_by_node
from heteroscale.placement.planning.topology import WIDTH, Ints
from heteroscale.placement.planning.units import Demand, Needs

TRIES_MAX = 6
"""Domains of equal bound that are filled for the sake of quality once one is found."""

TRIES_LARGE_MAX = 2
"""The same where there are many domains to choose from."""

DOMAINS_MANY = 12


Wanted: TypeAlias = tuple[Needs, list[fits.Condition]]
"""Needs with their conditions."""


@dataclass(frozen=True, slots=True, order=True)
class Cost:
    """The objective, in the order of its fields."""

    ranks: int
    pool: int
    touched: int
    left: int


@dataclass(frozen=True, slots=True)
class Found:
    """A way to seat the needs, and what it costs."""

    fill: Fill
    cost: Cost


def cost_of(fill: Fill, begun: Sequence[int] = ()) -> Cost:
    """What a fill costs; s1 in `begun` count for nothing but their class."""
    ledger = fill.view.ledger
    nodes = gpus_by_node(fill.seats)
    of = ledger.topology.levels[Level.S1].of
    touched = {int(of[node]) for node in nodes}
    fresh = touched - set(begun)
    return Cost(
        ranks=fill.ranks,
        pool=max((int(ledger.topology.pool[s1]) for s1 in touched | set(begun)), default=0),
        touched=len(fresh),
        left=sum(int(ledger.free[s1]) for s1 in fresh) - sum(gpus for node, gpus in nodes.items() if int(of[node]) in fresh),
    )


def find(blank: Fill, needs: Needs, level: Level) -> Found | None:
    """The cheapest way to seat the needs inside one domain of the level; None if there is none."""
    conditions = fits.conditions(blank.view, blank.demand.shapes, needs)
    found = _in_one_s1(blank, needs, conditions)
    for wider in (Level.S2, Level.CLUSTER):
        if WIDTH[wider] <= WIDTH[level]:
            found = _wider(blank, (needs, conditions), wider, found)
    return found


def inside(blank: Fill, needs: Needs, domain: tuple[Level, int], begun: Sequence[int] = ()) -> Found | None:
    """The cheapest way to seat the needs inside this one domain, where the s1 of `begun` are touched already."""
    ledger, pool = blank.view.ledger, blank.view.ledger.topology.pool
    first, last = ledger.range_of(*domain)
    conditions = fits.conditions(blank.view, blank.demand.shapes, needs)
    if any(int(condition.slots[first:last].sum()) < condition.need for condition in conditions):
        return None
    floor = max((int(pool[s1]) for s1 in begun), default=0)
    best: Found | None = None
    for worst in sorted({max(floor, int(code)) for code in np.unique(pool[first:last])}):
        if best is not None and best.cost.ranks == 0:
            break
        s1s = np.arange(first, last, dtype=np.int64)[pool[first:last] <= worst]
        if all(int(condition.slots[s1s].sum()) >= condition.need for condition in conditions):
            fill = into_one(blank, first, needs) if last - first == 1 else into_many(blank, s1s, needs, begun)
            if fill is not None and (best is None or fill.ranks < best.cost.ranks):
                best = Found(fill, cost_of(fill, begun))
    return best


def most_units(blank: Fill, limit: int, level: Level) -> int:
    """The most units that any domain of the level holds, up to `limit`."""
    demand, ledger = blank.demand, blank.view.ledger
    bounds = fits.units_at_most(ledger, fits.conditions(blank.view, demand.shapes, demand.times(1)), level)
    most = 0
    while len(bounds) and most < limit:
        at = int(bounds.argmax())
        if int(bounds[at]) <= most:
            break
        most = units_inside(blank, (level, at), limit, above=most)
        bounds[at] = 0
    return most


def units_inside(blank: Fill, domain: tuple[Level, int], limit: int, begun: Sequence[int] = (), above: int = 0) -> int:
    """The most units that this domain holds beside what it has, up to `limit`; `above` if it holds no more than that."""
    first, last = blank.view.ledger.range_of(*domain)
    low, high = above, limit
    for condition in fits.conditions(blank.view, blank.demand.shapes, blank.demand.times(1)):
        high = min(high, int(condition.slots[first:last].sum()) // max(1, condition.need))
    probe = high
    while low < high:
        if inside(blank, blank.demand.times(probe), domain, begun) is not None:
            low = probe
        else:
            high = probe - 1
        probe = (low + high + 1) // 2
    return low


def domains_for(view: fits.View, demand: Demand, needs: Needs, level: Level) -> int:
    """How many domains of the level could hold the needs, as far as the conditions tell."""
    return int(fits.holds(view.ledger, fits.conditions(view, demand.shapes, needs), level).sum())


def _in_one_s1(blank: Fill, needs: Needs, conditions: list[fits.Condition]) -> Found | None:
    ledger, shapes = blank.view.ledger, blank.demand.shapes
    possible = fits.holds(ledger, conditions, Level.S1)
    s1s = np.flatnonzero(possible)
    if not len(s1s):
        return None
    ranks = fits.elsewhere(blank.view, shapes, needs, Level.S1)
    bound = (ranks[s1s] << 40) + (ledger.topology.pool[s1s].astype(np.int64) << 36) + ledger.free[s1s]
    best: Found | None = None
    taken = 0
    while len(s1s):
        least = int(bound.min())
        if best is not None and (best.cost.ranks << 40) + (best.cost.pool << 36) + best.cost.left + taken <= least:
            break
        tied = s1s[bound == least]
        at = ledger.signatures.first_of(ledger.avail, tied)
        keep = s1s != at
        s1s, bound = s1s[keep], bound[keep]
        fill = into_one(blank, at, needs)
        if fill is not None:
            cost = cost_of(fill)
            if best is None or cost < best.cost:
                best, taken = Found(fill, cost), int(ledger.free[at]) - cost.left
    return best


def _wider(blank: Fill, wanted: Wanted, level: Level, best: Found | None) -> Found | None:
    """The cheaper of `best` and the best fill over several s1 of a domain of this level."""
    if best is not None and (best.cost.ranks, best.cost.pool) == (0, 0):
        return best
    tries = TRIES_MAX if len(blank.view.ledger.topology.levels[level]) <= DOMAINS_MANY else TRIES_LARGE_MAX
    successes = 0
    for bound, s1s in _candidates(blank, wanted, level, best):
        if best is not None and (successes >= tries or (best.cost.ranks, best.cost.pool, best.cost.touched) < bound[:3]):
            break
        fill = into_many(blank, s1s, wanted[0])
        if fill is None:
            continue
        successes += 1
        cost = cost_of(fill)
        if best is None or cost < best.cost:
            best = Found(fill, cost)
    return best


def _candidates(
    blank: Fill, wanted: Wanted, level: Level, best: Found | None
) -> Iterator[tuple[tuple[int, int, int], npt.NDArray[np.int64]]]:
    """Domains with a lower bound of their cost, in the order of the bound, then of structure."""
    ledger, shapes = blank.view.ledger, blank.demand.shapes
    needs, conditions = wanted
    pool = ledger.topology.pool
    found: list[tuple[int, int, int]] = []
    least: dict[int, int] = {}
    for worst in (0, 1, 2):
        if best is not None and best.cost.ranks == 0 and worst >= best.cost.pool:
            break
        mask: Mask = pool <= worst
        domains = np.flatnonzero(fits.holds(ledger, conditions, level, mask))
        if not len(domains):
            continue
        ranks = fits.elsewhere(blank.view, shapes, needs, level, mask)
        for number in domains.tolist():
            if number not in least or int(ranks[number]) < least[number]:
                least[number] = int(ranks[number])
                found.append((least[number], worst, number))
    if best is not None:
        found = [entry for entry in found if entry[:2] < (best.cost.ranks, best.cost.pool)]
    for ranks_worst in sorted({entry[:2] for entry in found}):
        numbers = np.array([number for *key, number in found if tuple(key) == ranks_worst], dtype=np.int64)
        yield from _by_touched(ledger, conditions[-1], level, ranks_worst, numbers)


def _by_touched(
    ledger: Ledger, condition: fits.Condition, level: Level, key: tuple[int, int], numbers: npt.NDArray[np.int64]
) -> Iterator[tuple[tuple[int, int, int], npt.NDArray[np.int64]]]:
    """Domains of one (ranks, pool) by the fewest s1 that could host the needs."""
    pool: Ints = ledger.topology.pool.astype(np.int32)
    entries: list[tuple[int, npt.NDArray[np.int64]]] = []
    for number in ledger.signatures.order(ledger.avail, numbers, level).tolist():
        first, last = ledger.range_of(level, number)
        s1s = np.arange(first, last, dtype=np.int64)[pool[first:last] <= key[1]]
        room = np.cumsum(np.sort(condition.slots[s1s])[::-1])
        entries.append((int(np.searchsorted(room, condition.need)) + 1, s1s))
    for touched, s1s in sorted(entries, key=lambda entry: entry[0]):
        yield (*key, touched), s1s
