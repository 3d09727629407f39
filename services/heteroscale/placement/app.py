"""The placement service: commands, acknowledgements and fleet changes in, reservations and Placements out.

A worker holds partitions of commands.v1 and actuations.v1, and plans every fleet whose key falls into them. Per batch: decode, one
turn per fleet (`fleets`), commit; nothing is committed before its effects are in the inventory and on placements.v1. While something
is away the batch is kept and tried again, and the service is not ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from heteroscale.bus.dead_letters import Guard, limits_of
from heteroscale.bus.log import Member, Record, TopicPartition
from heteroscale.bus.pause import stopped_within
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected, Retryable, Stale
from heteroscale.contracts.names import FleetName
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.placement import crash_points
from heteroscale.placement.crash_points import CrashPoint, Passing
from heteroscale.placement.fleets import Fleets, partition_of
from heteroscale.placement.fold import Event
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.inventory.redis import RedisInventory, client_of
from heteroscale.placement.report import Report
from heteroscale.placement.reservation import FencedOff, NotReady
from heteroscale.placement.settings import PlacementSettings
from heteroscale.runtime import metering
from heteroscale.runtime.context import Context
from heteroscale.runtime.settings import Switch

CONDITION: Final = "placement"
STAGE: Final = "placement"
BACKOFF_MS_FIRST: Final = 50
PROBE_EVERY_S: Final = 2.0
T = TypeVar("T")
Events = Mapping[FleetName, Sequence[Event]]


def inventory_for(settings: PlacementSettings, prefix: str) -> Inventory:
    """The inventory that the settings name: on Redis, or in this process if there is no address."""
    if settings.url is None:
        return MemoryInventory()
    client = client_of(settings, cluster=settings.redis_cluster is Switch.ON)
    return RedisInventory(client, prefix=prefix, timeout_ms=settings.timeout_ms)


async def serve(
    context: Context, settings: PlacementSettings, inventory: Inventory | None = None, passing: Passing = crash_points.passed
) -> None:
    """Run until `context.stop` is set. An `inventory` that is given is used and left open; `passing` is told of crash points."""
    used = inventory if inventory is not None else inventory_for(settings, context.prefix)
    worker = Worker(context, settings, used, passing)
    try:
        await worker.run()
    finally:
        await worker.close()
        if inventory is None:
            await used.close()


class Worker:
    """One member of the placement group."""

    def __init__(self, context: Context, settings: PlacementSettings, inventory: Inventory, passing: Passing = crash_points.passed) -> None:
        self._passing = passing
        self._context = context
        self._settings = settings
        self._inventory = inventory
        self._topics = {topic: topic_name(context.prefix, topic) for topic in (Topic.COMMANDS, Topic.ACTUATIONS)}
        self._report = Report(context.metrics)
        counter = metering.dead_letter_counter(context.metrics)
        self._guard = Guard(context.log, context.prefix, STAGE, limits=limits_of(context.bus), counter=counter)
        self._fleets = Fleets(context, settings, inventory, self._report, self._refuse, passing)
        self._origins: dict[int, Record] = {}  # of the batch at hand, by the identity of the event
        self._probe_at_s = 0.0
        self._member: Member | None = None

    async def run(self) -> None:
        """Join, then work batch by batch."""
        self._context.health.waiting(CONDITION, "the inventory and the fleet")
        await self._insist(self._start)
        while not self._context.stop.is_set():
            records = await self._insist(self._read)
            if records is not None:
                await self._insist(functools.partial(self._handle, records))
        with contextlib.suppress(Retryable):
            await self._fleets.settle()

    async def close(self) -> None:
        """Leave the group and let go of the log."""
        if self._member is not None:
            await self._member.close()
        await self._fleets.close()

    async def _start(self) -> None:
        for warning in await self._inventory.warnings():
            self._report.warning(warning)
        await self._fleets.topic.catch_up()
        if self._member is None:
            topics = [self._topics[Topic.COMMANDS], self._topics[Topic.ACTUATIONS]]
            group = f"{self._context.prefix}.{self._settings.group}"  # loops under other prefixes are nobody we share work with
            self._member = await self._context.log.join(group, topics, on_assigned=self._on_assigned, on_revoked=self._on_revoked)

    async def _on_assigned(self, held: frozenset[TopicPartition]) -> None:
        """Fleets of these partitions are taken over before the next cycle."""
        self._fleets.drop_all()
        self._report.assigned(sorted({at.partition for at in held}))

    async def _on_revoked(self, held: frozenset[TopicPartition]) -> None:
        """Nothing is under way here (hooks run inside poll), so there is nothing to drain: what was handled is committed."""
        del held
        self._fleets.drop_all()

    async def _read(self) -> list[Record]:
        """The next batch of commands and acknowledgements, and the fleet up to now. Raises Retryable, also while the inventory is away."""
        await self._probe()
        member = self._joined()
        records = await member.poll(timeout_ms=self._settings.poll_ms)
        if any(record.topic == self._topics[Topic.COMMANDS] for record in records):
            await self._fleets.topic.catch_up()  # what was said of nodes before a command is seen before it
        else:
            await self._fleets.topic.poll(0)
        return records

    async def _probe(self) -> None:
        """Ask the inventory for a sign of life now and then, so that readiness tells even while there is nothing to do."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._probe_at_s:
            await self._inventory.ping()
            self._probe_at_s = now_s + PROBE_EVERY_S

    async def _handle(self, records: list[Record]) -> None:
        """One batch: cycles, publication, commit. May run again after a failure: every step is harmless when repeated."""
        member = self._joined()
        held = {at.partition for at in member.assignment()}
        events = await self._decoded(records)
        known, read = {*self._fleets.topic.fleets, *events}, member.positions()
        for fleet in sorted(fleet for fleet in known if partition_of(fleet) in held):
            try:
                await self._fleets.turn(fleet, events.get(fleet, ()), read)
            except FencedOff:
                self._fleets.drop(fleet)
                self._report.fenced(fleet)
                await self._still_ours(fleet)
        for letter, error in self._fleets.topic.drain_rejected():
            await self._guard.refuse(letter, [error])
        self._passing(CrashPoint.BEFORE_COMMIT)
        await self._commit({record.at: record.offset + 1 for record in records})
        self._passing(CrashPoint.AFTER_COMMIT)
        if not records:
            await self._fleets.settle()
        self._context.health.holds(CONDITION)

    async def _still_ours(self, fleet: FleetName) -> None:
        """A fence refused us: ask the group whether the partition is ours. Raises Retryable if so (take over anew), Stale if not."""
        member = self._joined()
        at = TopicPartition(self._topics[Topic.COMMANDS], partition_of(fleet))
        committed = await member.committed(at)
        if committed is None:
            committed = (await self._context.log.begin_offsets([at]))[at]
        await member.commit({at: committed})
        raise NotReady(f"the fence of {fleet} was taken, and its partition is still ours")

    async def _decoded(self, records: Sequence[Record]) -> Events:
        """Events per fleet in (timestamp, topic, partition, offset) order; what cannot be used goes to dead letters."""
        events: dict[FleetName, list[Event]] = {}
        self._origins.clear()
        for record in sorted(records, key=lambda one: (one.timestamp_ms, one.topic, one.partition, one.offset)):
            event: Event | None
            if record.topic == self._topics[Topic.COMMANDS]:
                event = await self._guard.decode(record, Command)
            else:
                event = await self._guard.decode(record, Actuation)
            if event is not None:
                events.setdefault(event.fleet, []).append(event)
                self._origins[id(event)] = record
        return events

    async def _refuse(self, command: Command, error: Rejected) -> None:
        """A command of this batch that was not folded goes to dead letters. Raises Retryable."""
        await self._guard.refuse(self._origins[id(command)], [error])

    async def _commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if not offsets:
            return
        try:
            await self._joined().commit(offsets)
        except Stale:
            self._fleets.drop_all()  # the partitions went to another worker, which starts where we last committed

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """Run a step until it works or the word to stop comes; null in the second case."""
        pause_ms = BACKOFF_MS_FIRST
        while True:
            try:
                return await step()
            except Stale as error:
                self._report.dropped(str(error))
                return None
            except Retryable as error:
                self._context.health.waiting(CONDITION, str(error))
                self._report.waiting(str(error), pause_ms)
                if await stopped_within(self._context.stop, pause_ms / 1_000):
                    return None
                pause_ms = min(self._settings.backoff_ms_max, pause_ms * 2)

    def _joined(self) -> Member:
        assert self._member is not None  # noqa: S101 - run() joins first
        return self._member
