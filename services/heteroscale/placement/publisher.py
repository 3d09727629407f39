"""Placements from the inventory's out stream to placements.v1. What is in `out` is true; it leaves only after the log has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from heteroscale.bus import partitioning
from heteroscale.bus.log import Entry, Log
from heteroscale.contracts import codec, keys
from heteroscale.contracts.names import FleetName, ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.placement.inventory.gang import Gang, Outcome
from heteroscale.placement.inventory.protocol import Inventory, OutEntry
from heteroscale.placement.placements_topic import Newest, PlacementsTopic

BATCH: Final = 1_000
OWED_MAX: Final = 64  # Placements that may be on the log and still in `out`


class _Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """What of a Placement the log needs beside its bytes."""

    fleet: FleetName
    at_ms: int
    gen: int
    seq: int


class Publisher:
    """Writes placements.v1 for one worker, and keeps its index of the topic up to date."""

    def __init__(self, inventory: Inventory, log: Log, topic: str, partitions: int, index: PlacementsTopic) -> None:
        self._inventory = inventory
        self._log = log
        self._topic = topic
        self._partitions = partitions
        self._index = index
        self._owed: dict[FleetName, list[str]] = {}

    async def applied(self, fleet: FleetName, gangs: Sequence[tuple[Gang, Outcome]], answers: Sequence[Placement]) -> None:
        """What a cycle came to: reservations from `out`, and answers to dry runs. Raises Retryable; `out` keeps what is not sure.

        What is on the log now leaves `out` later, in `settle` or when enough has come together: that is a round trip and a write to
        disk which nobody waits for. Whoever takes over before publishes it again, and readers have it already.
        """
        entries = [self._entry(gang.service, gang.payload, gang.at_ms) for gang, _ in gangs]
        entries += [self._answer(answer) for answer in answers]
        if not entries:
            return
        await self._log.append(entries)
        for gang, _ in gangs:
            self._index.note(gang.service, Newest(fleet=fleet, gen=gang.gen, seq=gang.seq + 1, payload=gang.payload))
        owed = self._owed.setdefault(fleet, [])
        owed += [outcome.entry for _, outcome in gangs]
        if len(owed) >= OWED_MAX:
            await self._settle(fleet)

    async def settle(self) -> None:
        """Take out of `out` what is on the log. Raises Retryable."""
        for fleet in sorted(self._owed.copy()):
            await self._settle(fleet)

    async def _settle(self, fleet: FleetName) -> None:
        if owed := self._owed.get(fleet):
            await self._inventory.acknowledge(fleet, owed)
            del self._owed[fleet]

    async def drain(self, fleet: FleetName) -> int:
        """Publish, in order, what `out` holds and the log (as the index last saw it) does not; how many. Raises Retryable."""
        published = 0
        await self._settle(fleet)
        while waiting := await self._inventory.outbox(fleet, BATCH):
            unseen = [(entry.service, entry.payload) for entry in waiting if not self._is_on_log(entry)]
            await self.publish(unseen)
            await self._inventory.acknowledge(fleet, [entry.entry for entry in waiting])
            published += len(unseen)
        return published

    def _is_on_log(self, entry: OutEntry) -> bool:
        """Whether readers have it, or a newer one, which says everything again."""
        stamp, known = codec.decode(_Stamp, entry.payload), self._index.newest.get(entry.service)
        return known is not None and known.fleet == stamp.fleet and (known.gen, known.seq) >= (stamp.gen, stamp.seq)

    async def publish(self, rows: Iterable[tuple[ServiceName, bytes]]) -> None:
        """Append whole Placements. Raises Retryable."""
        entries: list[Entry] = []
        noted: list[tuple[ServiceName, Newest]] = []
        for service, payload in rows:
            stamp = codec.decode(_Stamp, payload)
            entries.append(self._entry(service, payload, stamp.at_ms))
            noted.append((service, Newest(fleet=stamp.fleet, gen=stamp.gen, seq=stamp.seq, payload=payload)))
        if entries:
            await self._log.append(entries)
        for service, newest in noted:
            self._index.note(service, newest)

    def _entry(self, service: ServiceName, payload: bytes, at_ms: int) -> Entry:
        return Entry(self._topic, service.encode(), payload, at_ms)

    def _answer(self, answer: Placement) -> Entry:
        """A dry-run answer: a key of its own in the service's partition, so that it never replaces the real assignment."""
        key = answer.service.encode()
        partition = partitioning.partition_of(key, self._partitions)
        return Entry(self._topic, keys.dry_run_key(answer.service), codec.encode(answer), answer.at_ms, partition)
