"""The inventory in this process: the same rules as the scripts, nothing survives. For embedded use, simulation and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from heteroscale.contracts.commands import Command
from heteroscale.contracts.names import FleetName, GangId, InstanceName, NodeName, ServiceName
from heteroscale.placement.inventory.entries import FleetImage, InstanceEntry, NodeEntry, ServiceEntry, Standing
from heteroscale.placement.inventory.gang import Gang, Outcome, Verdict
from heteroscale.placement.inventory.protocol import Build, NodeSync, OutEntry

KEPT_PER_SERVICE: Final = 1_000
APPLIED: Final = Verdict.APPLIED


@dataclass(slots=True)
class _Fleet:
    gen: int | None = None
    rev: int = 0
    fence: int = 0
    cycle: int = 0
    now_ms: int = 0
    nodes: dict[NodeName, NodeEntry] = field(default_factory=dict)
    services: dict[ServiceName, ServiceEntry] = field(default_factory=dict)
    instances: dict[InstanceName, InstanceEntry] = field(default_factory=dict)
    done: dict[GangId, Outcome] = field(default_factory=dict)
    slots: dict[tuple[ServiceName, int], GangId] = field(default_factory=dict)
    out: list[OutEntry] = field(default_factory=list)
    written: int = 0
    holder: str | None = None
    run: str = ""

    def append(self, service: ServiceName, payload: bytes) -> str:
        self.written += 1
        entry = f"0-{self.written}"
        self.out.append(OutEntry(entry, service, payload))
        return entry


class MemoryInventory:
    """See protocol.Inventory."""

    def __init__(self) -> None:
        self._fleets: dict[FleetName, _Fleet] = {}
        self._starts = 0

    @property
    def _server(self) -> str:
        return f"memory-{self._starts}"

    def _of(self, fleet: FleetName) -> _Fleet:
        return self._fleets.setdefault(fleet, _Fleet())

    async def take_fence(self, fleet: FleetName) -> int:
        """See protocol."""
        here = self._of(fleet)
        here.fence += 1
        return here.fence

    async def read(self, fleet: FleetName) -> FleetImage | None:
        """See protocol."""
        here = self._of(fleet)
        if here.gen is None:
            return None
        return FleetImage(
            gen=here.gen,
            rev=here.rev,
            cycle=here.cycle,
            now_ms=here.now_ms,
            nodes=dict(here.nodes),
            services=dict(here.services),
            instances=dict(here.instances),
            run=here.run,
            server=self._server,
        )

    async def stamp(self, fleet: FleetName) -> tuple[int, int] | None:
        """See protocol."""
        here = self._of(fleet)
        return None if here.gen is None else (here.gen, here.rev)

    async def build(self, build: Build) -> Outcome:
        """See protocol."""
        here = self._of(build.fleet)
        if here.fence != build.fence:
            return Outcome(verdict=Verdict.NOT_READY, detail="fence")
        if here.gen != build.old_gen:
            return Outcome(verdict=Verdict.NOT_READY, detail="gen")
        image = build.image
        here.gen, here.cycle, here.now_ms = image.gen, image.cycle, image.now_ms
        here.nodes, here.services, here.instances = dict(image.nodes), dict(image.services), dict(image.instances)
        here.done, here.slots, here.out, here.run = {}, {}, [], self._server
        for service, payload in build.placements:
            here.append(service, payload)
        here.rev += 1
        return Outcome(verdict=APPLIED, rev=here.rev)

    async def sync(self, sync: NodeSync) -> Outcome:
        """See protocol."""
        here = self._of(sync.fleet)
        if here.gen != sync.gen:
            return Outcome(verdict=Verdict.NOT_READY)
        if here.run != self._server:
            return Outcome(verdict=Verdict.NOT_READY, detail="run")
        if sync.fence < here.fence:
            return Outcome(verdict=Verdict.STALE, detail="fence")
        if here.rev != sync.rev:
            return Outcome(verdict=Verdict.CONFLICT)
        here.nodes.update(sync.nodes)
        for node in sync.gone:
            here.nodes.pop(node, None)
        here.rev += 1
        return Outcome(verdict=APPLIED, rev=here.rev)

    async def apply(self, gangs: Sequence[Gang]) -> list[Outcome]:
        """See protocol."""
        return [self._apply(gang) for gang in gangs]

    def _apply(self, gang: Gang) -> Outcome:
        here = self._of(gang.fleet)
        before = here.done.get(gang.id)
        if before is not None:
            return before
        refusal = _refusal(here, gang, self._server) or _node_refusal(here, gang)
        if refusal is not None:
            return refusal
        if any(instance in here.instances for instance in gang.born):
            return Outcome(verdict=Verdict.CONFLICT)
        _move_gpus(here, gang)
        here.instances.update(gang.puts)
        for instance in gang.drops:
            here.instances.pop(instance, None)
        here.services[gang.service] = gang.state
        here.rev += 1
        here.cycle = gang.cycle
        here.now_ms = max(here.now_ms, gang.at_ms)
        outcome = Outcome(verdict=APPLIED, rev=here.rev, entry=here.append(gang.service, gang.payload))
        slot = (gang.service, gang.seq % KEPT_PER_SERVICE)
        here.done.pop(here.slots.get(slot, GangId("")), None)
        here.slots[slot] = gang.id
        here.done[gang.id] = outcome
        return outcome

    async def outbox(self, fleet: FleetName, entries_max: int = 1_000) -> list[OutEntry]:
        """See protocol."""
        return self._of(fleet).out[:entries_max]

    async def acknowledge(self, fleet: FleetName, entries: Sequence[str]) -> None:
        """See protocol."""
        here, known = self._of(fleet), frozenset(entries)
        here.out = [entry for entry in here.out if entry.entry not in known]

    async def lease(self, fleet: FleetName, holder: str, ttl_ms: int) -> str:
        """See protocol. Without a clock here, a lease lasts until its holder closes."""
        del ttl_ms
        here = self._of(fleet)
        here.holder = here.holder or holder
        return here.holder

    async def ping(self) -> None:
        """See protocol."""

    async def warnings(self) -> list[str]:
        """See protocol."""
        return ["embedded inventory: nothing survives this process"]

    async def close(self) -> None:
        """See protocol."""

    def restart(self) -> None:
        """Be another run of the server from now on, with nothing forgotten. For tests."""
        self._starts += 1

    def lose(self, fleet: FleetName) -> None:
        """Forget a fleet, as a wiped store would. For tests."""
        self._fleets.pop(fleet, None)


def command_order(command: Command) -> tuple[int, int, str]:
    """What makes one command newer than another of its service: revision, then at_ms, then id."""
    return command.revision, command.at_ms, command.id


def _refusal(here: _Fleet, gang: Gang, server: str) -> Outcome | None:
    if here.gen != gang.gen:
        return Outcome(verdict=Verdict.NOT_READY)
    if here.run != server:
        return Outcome(verdict=Verdict.NOT_READY, detail="run")
    if gang.fence < here.fence:
        return Outcome(verdict=Verdict.STALE, detail="fence")
    known = here.services.get(gang.service)
    if known is not None and command_order(gang.state.command) < command_order(known.command):
        return Outcome(verdict=Verdict.STALE, detail="command")
    if gang.seq != (known.seq if known else 0):
        return Outcome(verdict=Verdict.CONFLICT)
    return None


def _node_refusal(here: _Fleet, gang: Gang) -> Outcome | None:
    free: dict[NodeName, int] = {}
    for node, gpus in gang.takes.items():
        entry = here.nodes.get(node)
        if entry is None or entry.standing is not Standing.READY or entry.free < gpus:
            return Outcome(verdict=Verdict.CONFLICT, node=node)
        free[node] = entry.free - gpus
    for node, gpus in gang.adopts.items():
        entry = here.nodes.get(node)
        if entry is None or entry.standing is Standing.REMOVED:
            return Outcome(verdict=Verdict.CONFLICT, node=node)
        if free.get(node, entry.free) < gpus - min(gpus, entry.used):
            return Outcome(verdict=Verdict.CONFLICT, node=node)
    return None


def _move_gpus(here: _Fleet, gang: Gang) -> None:
    for node, gpus in gang.takes.items():
        entry = here.nodes[node]
        here.nodes[node] = msgspec.structs.replace(entry, free=entry.free - gpus)
    for node, gpus in gang.adopts.items():
        entry = here.nodes[node]
        from_used = min(gpus, entry.used)
        here.nodes[node] = msgspec.structs.replace(entry, free=entry.free - (gpus - from_used), used=entry.used - from_used)
    for node, gpus in gang.frees.items():
        freed = here.nodes.get(node)
        if freed is not None:
            here.nodes[node] = msgspec.structs.replace(freed, free=freed.free + gpus)
