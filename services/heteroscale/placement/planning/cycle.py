"""What the requests of one cycle share: the ledger, who holds what, and what is held back for queued requests."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.placements import Group, InstanceState, PlacedInstance
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning import memo, search
from heteroscale.placement.planning.fill import Fill
from heteroscale.placement.planning.fits import View
from heteroscale.placement.planning.ledger import Ledger, Mask
from heteroscale.placement.planning.memo import Memo, NeedsKey
from heteroscale.placement.planning.model import Request, Snapshot
from heteroscale.placement.planning.occupancy import Occupancy
from heteroscale.placement.planning.topology import READY
from heteroscale.placement.planning.units import Demand, Needs
from heteroscale.placement.planning.work import Work

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
    """One cycle's shared state. What only a failure asks for is made at the first question."""

    snapshot: Snapshot
    ledger: Ledger
    explained: bool = True
    holds: list[Hold] = field(default_factory=list)
    _settled: dict[int, Work] = field(default_factory=dict)
    _drafted: Occupancy = field(default_factory=Occupancy)
    _views: dict[int, tuple[int, View]] = field(default_factory=dict)
    _running: Occupancy | None = None
    _freed: Ledger | None = None
    _feasible: dict[tuple[Memo, NeedsKey, Level], int] = field(default_factory=dict)
    _hopes: dict[Hashable, bool] = field(default_factory=dict)

    @classmethod
    def start(cls, snapshot: Snapshot, requests: Sequence[Request]) -> Cycle:
        """A fresh ledger over the snapshot."""
        memo.trim(snapshot.topology.memos)
        ledger = Ledger(snapshot.topology, snapshot.free, snapshot.state)
        ledger.remember(snapshot.assignments, sorted({request.command.service for request in requests}))
        return cls(snapshot=snapshot, ledger=ledger)

    def view_for(self, priority: int) -> View:
        """The ledger without what is held back for requests of higher priority."""
        seen, view = self._views.get(priority, (0, None))
        if view is None or any(hold.priority > priority for hold in self.holds[seen:]):
            view = self._view_for(priority)
        self._views[priority] = len(self.holds), view
        return view

    def _view_for(self, priority: int) -> View:
        banned: dict[int, Mask] = {}
        for hold in self.holds:
            if hold.priority > priority:
                for code in hold.types:
                    mask = banned.setdefault(code, np.zeros(self.ledger.pools, dtype=bool))
                    mask[hold.first : hold.last] = True
        return View(self.ledger, banned)

    def domains(self, demand: Demand, needs: Needs) -> int:
        """In how many domains the needs could lie before the cycle gave anything away; equal requests ask once."""
        key = demand.memo, frozenset(needs.items()), demand.level
        found = self._feasible.get(key)
        if found is None:
            found = self._feasible[key] = search.domains_for(View(self.ledger, {}), demand, needs, demand.level)
        return found

    def hold_for(self, work: Work, left: Needs, place: Place) -> None:
        """Hold back what the queued request asked for in its best domain, if freeing all that is held there could make it fit."""
        command, demand = work.book.request.command, work.demand
        if command.dry_run:
            return
        target = demand.wanted_at_once(left)
        key = (demand.key, frozenset(target.items()), place)
        if key not in self._hopes:
            freed = Fill(view=View(self.all_freed(), {}), demand=demand)
            self._hopes[key] = search.inside(freed, target, place) is not None
        if self._hopes[key]:
            first, last = self.ledger.range_of(*place)
            types = frozenset(code for role in left for _, code in demand.shapes[role].types)
            self.holds.append(Hold(command.service, command.priority, first, last, types))

    def settle(self, owner: int, work: Work) -> None:
        """What a request was given is known: whoever fails after it may be waiting for it."""
        self._settled[owner] = work

    def blockers(self, work: Work, left: Needs, place: Place) -> list[ServiceName]:
        """Services that hold GPUs of the types asked for in a domain, and those for which some are held back there."""
        command = work.book.request.command
        types = {code for role in left for _, code in work.demand.shapes[role].types}
        first, last = self.ledger.range_of(*place)
        found = self._held().within(first, last, types) | self._given().within(first, last, types)
        for hold in self.holds:
            if hold.priority > command.priority and hold.first < last and first < hold.last and hold.types & types:
                found.add(hold.service)
        return sorted(found.difference({command.service}))

    def _given(self) -> Occupancy:
        """What the cycle has given so far."""
        ledger = self.ledger
        for owner, work in self._settled.items():
            service, nodes = work.book.request.command.service, work.draft.nodes()
            self._drafted.put(owner, service, ((ledger.lists.s1[node], ledger.lists.type[node]) for node in nodes))
        self._settled.clear()
        return self._drafted

    def _held(self) -> Occupancy:
        if self._running is None:
            ledger, index = self.ledger, self.snapshot.topology.index
            self._running = Occupancy()
            for owner, (service, groups) in enumerate(sorted(self.snapshot.assignments.items())):
                nodes = {index[node] for instance in _there(groups) for node in instance.nodes if node in index}
                self._running.put(owner, service, ((ledger.lists.s1[node], ledger.lists.type[node]) for node in nodes))
        return self._running

    def all_freed(self) -> Ledger:
        """The fleet as if every service had let go of everything."""
        if self._freed is None:
            topology, snapshot = self.snapshot.topology, self.snapshot
            free = np.where(snapshot.state == READY, snapshot.free, 0).astype(np.int16)
            for groups in snapshot.assignments.values():
                for instance in _there(groups):
                    for node, gpus in instance.nodes.items():
                        if node in topology.index:
                            free[topology.index[node]] += gpus
            self._freed = Ledger(topology, np.minimum(free, topology.gpus).astype(np.int16), snapshot.state)
        return self._freed


def _there(groups: Iterable[Group]) -> Iterator[PlacedInstance]:
    """Instances that hold their GPUs."""
    for group in groups:
        for instance in group.instances:
            if instance.state is not InstanceState.FAILED:
                yield instance


def order_key(cycle: Cycle, work: Work, first: frozenset[ServiceName]) -> tuple[int, bool, int, int, int, ServiceName]:
    """Phase 3: priority (in it, `first` first), then fewest feasible domains, then size (large first), then arrival, then name."""
    demand, needs, request = work.demand, work.rest, work.book.request
    domains = cycle.domains(demand, needs) if needs else 0
    size = sum(demand.shapes[role].gpus * count for role, count in needs.items())
    service = request.command.service
    return -request.command.priority, service not in first, domains, -size, request.arrival, service
