"""How many more units of a service fit: in every domain of its affinity level, by pool class, each class after the cheaper ones.

Domains of a level share no GPU, so their figures add up. Like the planner it prefers cheap pools: what a domain shows
for high is what fits there on top once its low and medium pods are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.placements import Domain, Pool
from heteroscale.placement.planning import search
from heteroscale.placement.planning.fill import Fill
from heteroscale.placement.planning.fits import View
from heteroscale.placement.planning.ledger import Ledger
from heteroscale.placement.planning.model import Request, Snapshot
from heteroscale.placement.planning.topology import POOLS
from heteroscale.placement.planning.units import Demand

UNITS_MAX = 1 << 20


class Headroom(NamedTuple):
    """Units that fit on pods of one class of a domain."""

    domain: Domain
    pool: Pool
    units: int


def unit_of(snapshot: Snapshot, request: Request) -> Mapping[RoleName, int]:
    """Replicas in one unit of the request."""
    return _demand(snapshot, request).unit


def headroom(snapshot: Snapshot, request: Request) -> list[Headroom]:
    """Only domains and classes with room, in path order. What is held back for queued requests counts as room."""
    demand = _demand(snapshot, request)
    ledger = Ledger(snapshot.topology, snapshot.free, snapshot.state)
    found: list[Headroom] = []
    if not demand.unit:
        return found
    for number in range(len(snapshot.topology.levels[demand.level])):
        before = 0
        for worst, pool in enumerate(POOLS[: ledger.pool_worst + 1]):
            dear = snapshot.topology.pool > worst
            view = View(ledger, dict.fromkeys(range(len(snapshot.topology.types)), dear))
            units = search.units_inside(Fill(view=view, demand=demand), (demand.level, number), UNITS_MAX, above=before)
            if units > before:
                found.append(Headroom(snapshot.topology.domain(demand.level, number), pool, units - before))
                before = units
    return found


def _demand(snapshot: Snapshot, request: Request) -> Demand:
    return Demand.of(request.command, {name: code for code, name in enumerate(snapshot.topology.types)}, {})
