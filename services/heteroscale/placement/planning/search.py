"""Choosing domains: the cheapest place for the needs.

Among the domains that can hold them, minimise, in this order: instances on less preferred GPU types, pool class, s1 touched,
GPUs left over in touched s1, structure, path name. Conditions over all s1 at once name the candidates with a lower bound of
that key each; candidates are filled in the order of their bounds, until no bound undercuts the best fill (branch and bound).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.spec import Level
from heteroscale.placement.planning import fits
from heteroscale.placement.planning.fill import Fill, into_many, into_one
from heteroscale.placement.planning.ledger import RANK_BITS, Condition, Ledger
from heteroscale.placement.planning.site import gpus_by_node
from heteroscale.placement.planning.topology import CLUSTER, S1, S2, WIDTH
from heteroscale.placement.planning.units import Demand, Needs

TRIES_MAX = 6
"""Domains of equal bound that are filled for the sake of quality once one is found."""

TRIES_LARGE_MAX = 2
"""The same where there are many domains to choose from."""

DOMAINS_MANY = 12


Wanted: TypeAlias = tuple[Needs, list[Condition]]
"""Needs with their conditions."""


class Cost(NamedTuple):
    """The objective, in the order of its fields."""

    ranks: int
    pool: int
    touched: int
    left: int


class Found(NamedTuple):
    """A way to seat the needs, the GPUs that it takes by node, and what it costs."""

    fill: Fill
    nodes: Mapping[int, int]
    cost: Cost


def found_of(fill: Fill, begun: Sequence[int] = ()) -> Found:
    """A fill with its cost; s1 in `begun` cost nothing but their class."""
    ledger, lists = fill.view.ledger, fill.view.ledger.lists
    nodes = gpus_by_node(fill.seats)
    taken: dict[int, int] = {}
    for node, gpus in nodes.items():
        s1 = lists.s1[node]
        taken[s1] = taken.get(s1, 0) + gpus
    fresh = [s1 for s1 in taken if s1 not in begun] if begun else taken
    cost = Cost(
        ranks=fill.ranks,
        pool=max([lists.pool[s1] for s1 in (*taken, *begun)], default=0),
        touched=len(fresh),
        left=sum([ledger.free_of(s1) - taken[s1] for s1 in fresh]),
    )
    return Found(fill, nodes, cost)


def find(blank: Fill, needs: Needs, level: Level) -> Found | None:
    """The cheapest way to seat the needs inside one domain of the level; None if there is none."""
    conditions = fits.conditions(blank.view, blank.demand, needs)
    found = _in_one_s1(blank, needs, conditions)
    for wider in (S2, CLUSTER):
        if WIDTH[wider] <= WIDTH[level]:
            found = _wider(blank, (needs, conditions), wider, found)
    return found


def inside(blank: Fill, needs: Needs, domain: tuple[Level, int], begun: Sequence[int] = ()) -> Found | None:
    """The cheapest way to seat the needs inside this one domain, where the s1 of `begun` are touched already."""
    ledger, pool = blank.view.ledger, blank.view.ledger.topology.pool
    first, last = ledger.range_of(*domain)
    conditions = fits.conditions(blank.view, blank.demand, needs)
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
                best = found_of(fill, begun)
    return best


def most_units(blank: Fill, limit: int, level: Level) -> int:
    """The most units that any domain of the level holds, up to `limit`."""
    demand, ledger = blank.demand, blank.view.ledger
    bounds = fits.units_at_most(ledger, fits.conditions(blank.view, demand, demand.times(1)), level)
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
    for condition in fits.conditions(blank.view, blank.demand, blank.demand.times(1)):
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
    return int(fits.holds(view.ledger, fits.conditions(view, demand, needs), level).sum())


def _in_one_s1(blank: Fill, needs: Needs, conditions: list[Condition]) -> Found | None:
    ledger = blank.view.ledger
    s1s = fits.holds(ledger, conditions, S1).nonzero()[0]
    if not len(s1s):
        return None
    bound = ledger.bound[s1s]
    ranks = fits.elsewhere(blank.view, blank.demand, needs, S1)
    if ranks is not None:
        bound += ranks[s1s] << RANK_BITS
    best: Found | None = None
    reached = 0
    while len(s1s):
        least = int(np.minimum.reduce(bound))
        if best is not None and reached <= least:
            break
        at = ledger.signatures.first_of(ledger.avail, s1s[bound == least])
        fill = into_one(blank, at, needs)
        if fill is not None:
            found = found_of(fill)
            if best is None or found.cost < best.cost:
                best, reached = found, (found.cost.ranks << RANK_BITS) + int(ledger.bound[at])
                if reached <= least:
                    break
        keep = s1s != at
        s1s, bound = s1s[keep], bound[keep]
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
        found = found_of(fill)
        if best is None or found.cost < best.cost:
            best = found
    return best


def _candidates(
    blank: Fill, wanted: Wanted, level: Level, best: Found | None
) -> Iterator[tuple[tuple[int, int, int], npt.NDArray[np.int64]]]:
    """Domains with a lower bound of their cost, in the order of the bound, then of structure."""
    ledger = blank.view.ledger
    needs, conditions = wanted
    if not fits.holds(ledger, conditions, level).any():
        return
    later: dict[tuple[int, int], list[int]] = {}
    least: dict[int, int] = {}
    for worst in range(ledger.pool_worst + 1):
        if best is not None and best.cost.ranks == 0 and worst >= best.cost.pool:
            break
        mask = ledger.up_to_pool(worst)
        domains = np.flatnonzero(fits.holds(ledger, conditions, level, mask)).tolist()
        ranks = fits.elsewhere(blank.view, blank.demand, needs, level, mask) if domains else None
        for number in domains:
            rank = 0 if ranks is None else int(ranks[number])
            if number not in least or rank < least[number]:
                least[number] = rank
                later.setdefault((rank, worst), []).append(number)
        if (0, worst) in later:
            yield from _by_touched(ledger, conditions[-1], level, (0, worst), later.pop((0, worst)))
    for key, numbers in sorted(later.items()):
        if best is None or key < (best.cost.ranks, best.cost.pool):
            yield from _by_touched(ledger, conditions[-1], level, key, numbers)


def _by_touched(
    ledger: Ledger, condition: Condition, level: Level, key: tuple[int, int], domains: list[int]
) -> Iterator[tuple[tuple[int, int, int], npt.NDArray[np.int64]]]:
    """Domains of one (ranks, pool) by the fewest s1 that could host the needs, then by structure."""
    mask = ledger.up_to_pool(key[1])
    slots = condition.slots if mask is None else np.where(mask, condition.slots, 0)
    numbers = np.array(domains, dtype=np.int64)
    touched = ledger.fewest(level, slots, condition.need)[numbers]
    for few in np.unique(touched).tolist():
        for number in ledger.signatures.order(ledger.avail, numbers[touched == few], level).tolist():
            first, last = ledger.range_of(level, number)
            inside = np.arange(first, last, dtype=np.int64)
            yield (*key, few), inside if mask is None else inside[mask[first:last]]
