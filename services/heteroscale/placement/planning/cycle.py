"""What the requests of one cycle share: the ledger, who holds what, and what is held back for queued requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.placements import InstanceState
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning import search
from heteroscale.placement.planning.fill import Fill
from heteroscale.placement.planning.fits import View
from heteroscale.placement.planning.ledger import Ledger, Mask
from heteroscale.placement.planning.model import Request, Snapshot
from heteroscale.placement.planning.placing import Work
from heteroscale.placement.planning.site import gpus_by_node
from heteroscale.placement.planning.topology import READY
from heteroscale.placement.planning.units import Needs

Place = tuple[Level, int]


@dataclass(frozen=True, slots=True)
class Hold:
    """GPU types held back in a range of s1 for a queued request."""

    service: ServiceName
    priority: int
    first: int
    last: int
    types: frozenset[int]


@dataclass(slots=True)
class Cycle:
    """One cycle's shared state. `holders` is filled at the first question: service, node, GPUs."""

    snapshot: Snapshot
    ledger: Ledger
    holds: list[Hold] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    _holders: Mapping[ServiceName, Mapping[int, int]] | None = None
    _freed: Ledger | None = None

    @classmethod
    def start(cls, snapshot: Snapshot, requests: Sequence[Request]) -> Cycle:
        """A fresh ledger over the snapshot."""
        ledger = Ledger(snapshot.topology, snapshot.free, snapshot.state)
        ledger.remember(snapshot.assignments, sorted({request.command.service for request in requests}))
        return cls(snapshot=snapshot, ledger=ledger)

    def view_for(self, priority: int) -> View:
        """The ledger without what is held back for requests of higher priority."""
        banned: dict[int, Mask] = {}
        for hold in self.holds:
            if hold.priority > priority:
                for code in hold.types:
                    mask = banned.setdefault(code, np.zeros(self.ledger.pools, dtype=bool))
                    mask[hold.first : hold.last] = True
        return View(self.ledger, banned)

    def hold_for(self, work: Work, left: Needs, place: Place) -> None:
        """Hold back what the queued request asked for in its best domain, if freeing all that is held there could make it fit."""
        command = work.book.request.command
        if command.dry_run:
            return
        demand = work.demand
        target = left if demand.whole or not demand.units_in(left) else demand.times(1)
        freed = Fill(view=View(self._all_freed(), {}), demand=demand)
        if search.inside(freed, target, place) is None:
            return
        first, last = self.ledger.range_of(*place)
        types = frozenset(code for role in left for _, code in demand.shapes[role].types)
        self.holds.append(Hold(command.service, command.priority, first, last, types))

    def blockers(self, work: Work, left: Needs, place: Place) -> list[ServiceName]:
        """Services that hold GPUs of the types asked for in a domain, and those for which some are held back there."""
        topology, command = self.ledger.topology, work.book.request.command
        types = {code for role in left for _, code in work.demand.shapes[role].types}
        ranges = topology.levels[place[0]]
        low, high = int(ranges.first[place[1]]), int(ranges.first[place[1] + 1])
        found: set[ServiceName] = set()
        for service, nodes in self._held().items():
            if any(low <= node < high and self.ledger.types[node] in types for node in nodes):
                found.add(service)
        for other in self.works:
            nodes = gpus_by_node(seat for step in other.draft.steps for seat in step.seats)
            if any(low <= node < high and self.ledger.types[node] in types for node in nodes):
                found.add(other.book.request.command.service)
        first, last = self.ledger.range_of(*place)
        for hold in self.holds:
            if hold.priority > command.priority and hold.first < last and first < hold.last and hold.types & types:
                found.add(hold.service)
        return sorted(found.difference({command.service}))

    def _held(self) -> Mapping[ServiceName, Mapping[int, int]]:
        if self._holders is None:
            index = self.snapshot.topology.index
            held: dict[ServiceName, dict[int, int]] = {}
            for service, groups in sorted(self.snapshot.assignments.items()):
                nodes = held.setdefault(service, {})
                for group in groups:
                    for instance in group.instances:
                        if instance.state is not InstanceState.FAILED:
                            for node, gpus in instance.nodes.items():
                                if node in index:
                                    nodes[index[node]] = nodes.get(index[node], 0) + gpus
            self._holders = held
        return self._holders

    def _all_freed(self) -> Ledger:
        """The fleet as if every service had let go of everything."""
        if self._freed is None:
            topology = self.snapshot.topology
            free = np.where(self.snapshot.state == READY, self.snapshot.free, 0).astype(np.int16)
            for nodes in self._held().values():
                for node, gpus in nodes.items():
                    free[node] += gpus
            self._freed = Ledger(topology, np.minimum(free, topology.gpus).astype(np.int16), self.snapshot.state)
        return self._freed


def order_key(cycle: Cycle, work: Work, first: frozenset[ServiceName]) -> tuple[int, bool, int, int, int, ServiceName]:
    """Phase 3: priority (in it, `first` first), then fewest feasible domains, then size (large first), then arrival, then name."""
    demand, needs, request = work.demand, work.rest, work.book.request
    domains = search.domains_for(View(cycle.ledger, {}), demand, needs, demand.level) if needs else 0
    size = sum(demand.shapes[role].gpus * count for role, count in needs.items())
    service = request.command.service
    return -request.command.priority, service not in first, domains, -size, request.arrival, service
