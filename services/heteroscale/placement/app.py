"""The placement service: commands, acknowledgements and fleet changes in, reservations and Placements out.

The only module here that touches Kafka and Redis. A worker holds partitions of commands.v1 and actuations.v1, and plans every
fleet whose key falls into them. Per batch: decode, one cycle per fleet, publish, commit; nothing is committed before its effects
are in the inventory and on placements.v1. While something is away the batch is kept and tried again, and the service is not ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from heteroscale.bus import partitioning
from heteroscale.bus.dead_letters import Guard, limits_of
from heteroscale.bus.log import Member, Record, TopicPartition
from heteroscale.bus.pause import stopped_within
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Retryable, Stale
from heteroscale.contracts.names import FleetName, InstanceName, ServiceName
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.placement import crash_points, reservation, takeover
from heteroscale.placement.actuations_topic import ActuationsTopic
from heteroscale.placement.crash_points import CrashPoint, Passing
from heteroscale.placement.fleet_topic import FleetTopic
from heteroscale.placement.fold import CycleInput, Event
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.inventory.redis import RedisInventory, client_of
from heteroscale.placement.placements_topic import PlacementsTopic
from heteroscale.placement.publisher import Publisher
from heteroscale.placement.reconciler import Reconciler
from heteroscale.placement.report import Report
from heteroscale.placement.reservation import FencedOff, NotReady
from heteroscale.placement.settings import PlacementSettings
from heteroscale.placement.state import FleetState
from heteroscale.placement.takeover import TakeOver
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
        self._topics = {topic: topic_name(context.prefix, topic) for topic in Topic}
        self._partitions = CATALOGUE[Topic.COMMANDS].partitions
        self._report = Report(context.metrics)
        counter = metering.dead_letter_counter(context.metrics)
        self._guard = Guard(context.log, context.prefix, STAGE, limits=limits_of(context.bus), counter=counter)
        self._fleet_topic = FleetTopic(context.log, self._topics[Topic.FLEET])
        self._placements = PlacementsTopic(context.log, self._topics[Topic.PLACEMENTS])
        self._publisher = Publisher(
            inventory, context.log, self._topics[Topic.PLACEMENTS], CATALOGUE[Topic.PLACEMENTS].partitions, self._placements
        )
        self._states: dict[FleetName, FleetState] = {}
        self._seen: dict[FleetName, int] = {}
        self._origins: dict[int, Record] = {}  # of the batch at hand, by the identity of the event
        self._leased_until_s: dict[FleetName, float] = {}
        self._words: dict[int, ActuationsTopic] = {}
        self._reconciler = Reconciler(settings.reconcile_ms / 1_000)
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
            await self._publisher.settle()

    async def close(self) -> None:
        """Leave the group and let go of the log. What `out` still holds is published again by whoever comes next."""
        if self._member is not None:
            await self._member.close()
        await self._fleet_topic.close()

    async def _start(self) -> None:
        for warning in await self._inventory.warnings():
            self._report.warning(warning)
        await self._fleet_topic.catch_up()
        if self._member is None:
            topics = [self._topics[Topic.COMMANDS], self._topics[Topic.ACTUATIONS]]
            group = f"{self._context.prefix}.{self._settings.group}"  # loops under other prefixes are nobody we share work with
            self._member = await self._context.log.join(group, topics, on_assigned=self._on_assigned, on_revoked=self._on_revoked)

    async def _on_assigned(self, held: frozenset[TopicPartition]) -> None:
        """Fleets of these partitions are taken over before the next cycle."""
        self._states.clear()
        self._report.assigned(sorted({at.partition for at in held}))

    async def _on_revoked(self, held: frozenset[TopicPartition]) -> None:
        """Nothing is under way here (hooks run inside poll), so there is nothing to drain: what was handled is committed."""
        del held
        self._states.clear()

    async def _read(self) -> list[Record]:
        """The next batch of commands and acknowledgements, and the fleet up to now. Raises Retryable, also while the inventory is away."""
        await self._probe()
        member = self._joined()
        records = await member.poll(timeout_ms=self._settings.poll_ms)
        if any(record.topic == self._topics[Topic.COMMANDS] for record in records):
            await self._fleet_topic.catch_up()  # what was said of nodes before a command is seen before it
        else:
            await self._fleet_topic.poll(0)
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
        known = {*self._fleet_topic.fleets, *events}
        for fleet in sorted(fleet for fleet in known if self._partition(fleet) in held):
            try:
                await self._cycle(fleet, events.get(fleet, ()))
                await self._reconcile(fleet)
                await self._renew_lease(fleet)
            except FencedOff:
                self._states.pop(fleet, None)
                self._report.fenced(fleet)
                await self._still_ours(fleet)
        for letter, error in self._fleet_topic.drain_rejected():
            await self._guard.refuse(letter, [error])
        self._passing(CrashPoint.BEFORE_COMMIT)
        await self._commit({record.at: record.offset + 1 for record in records})
        self._passing(CrashPoint.AFTER_COMMIT)
        if not records:
            await self._publisher.settle()
        self._context.health.holds(CONDITION)

    async def _cycle(self, fleet: FleetName, events: Sequence[Event], restate: frozenset[ServiceName] = frozenset()) -> None:
        """One cycle of one fleet. Raises Retryable, FencedOff."""
        now = await self._above(self._states.get(fleet) or await self._take_over(fleet), events)
        position = self._fleet_topic.position
        known = self._seen.get(fleet) == position
        if not (events or restate) and known:
            return
        changes = {} if known else self._fleet_topic.newest(fleet)
        given = CycleInput(events, now.cycle + 1, self._cut_of(fleet), restate=restate)
        began = asyncio.get_running_loop().time()
        try:
            self._passing(CrashPoint.BEFORE_APPLY)
            carried = await reservation.carry_out(self._inventory, now, given, changes)
            self._passing(CrashPoint.AFTER_APPLY)
            await self._publisher.applied(fleet, carried.applied, carried.answers)
            self._passing(CrashPoint.AFTER_PUBLISH)
            for command, error in carried.refused:
                await self._guard.refuse(self._origins[id(command)], [error])
        except (Retryable, Stale):
            self._states.pop(fleet, None)
            raise
        self._states[fleet] = carried.state
        self._seen[fleet] = position
        self._report.cycle(fleet, given.number, carried, asyncio.get_running_loop().time() - began)

    async def _above(self, now: FleetState, events: Sequence[Event]) -> FleetState:
        """Services that come from another fleet go on above what stands on the log of them, under another generation if need be."""
        new = {one.service for one in events if isinstance(one, Command) and _is_new(now, one)}
        if not new:
            return now
        await self._placements.catch_up()
        arriving = takeover.outranked(now, self._placements, new)
        return await self._take_over(now.fleet, arriving=arriving) if arriving else now

    async def _reconcile(self, fleet: FleetName) -> None:
        """Now and then: do inventory, log and actuators agree? Raises Retryable, FencedOff."""
        now, now_s = self._states.get(fleet), asyncio.get_running_loop().time()
        if now is None or not self._reconciler.due(fleet, now_s):
            return
        try:
            look = await self._reconciler.look(self._ground(fleet), now, now_s)
        except (Retryable, Stale):
            self._states.pop(fleet, None)
            raise
        self._report.reconciled(fleet, look)
        if look.haunted or look.departed:
            await self._take_over(fleet, look.haunted)
        if look.again or look.restate:
            await self._cycle(fleet, look.again, look.restate)

    async def _take_over(
        self, fleet: FleetName, haunted: Collection[InstanceName] = (), arriving: Collection[ServiceName] = ()
    ) -> FleetState:
        taken = await takeover.take_over(self._ground(fleet), fleet, haunted, arriving)
        self._report.taken(fleet, taken)
        self._states[fleet] = taken.state
        self._seen.pop(fleet, None)
        return taken.state

    def _ground(self, fleet: FleetName) -> TakeOver:
        """Where a fleet's truth lies."""
        partition = self._partition(fleet)
        actuations = TopicPartition(self._topics[Topic.ACTUATIONS], partition)
        return TakeOver(
            inventory=self._inventory,
            log=self._context.log,
            publisher=self._publisher,
            fleet_topic=self._fleet_topic,
            placements=self._placements,
            passing=self._passing,
            commands=TopicPartition(self._topics[Topic.COMMANDS], partition),
            actuations=self._words.setdefault(partition, ActuationsTopic(self._context.log, actuations)),
        )

    async def _renew_lease(self, fleet: FleetName) -> None:
        """Say who plans this fleet, for people who ask. Nothing depends on it."""
        now_s = asyncio.get_running_loop().time()
        if fleet in self._states and now_s >= self._leased_until_s.get(fleet, 0.0):
            await self._inventory.lease(fleet, f"{socket.gethostname()}:{os.getpid()}", self._settings.lease_ms)
            self._leased_until_s[fleet] = now_s + self._settings.lease_ms / 3_000

    async def _still_ours(self, fleet: FleetName) -> None:
        """A fence refused us: ask the group whether the partition is ours. Raises Retryable if so (take over anew), Stale if not."""
        member = self._joined()
        at = TopicPartition(self._topics[Topic.COMMANDS], self._partition(fleet))
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

    async def _commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if not offsets:
            return
        try:
            await self._joined().commit(offsets)
        except Stale:
            self._states.clear()  # the partitions went to another worker, which starts where we last committed

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

    def _partition(self, fleet: FleetName) -> int:
        return partitioning.partition_of(fleet.encode(), self._partitions)

    def _cut_of(self, fleet: FleetName) -> dict[str, int]:
        """Next offsets of what this fleet's cycle has read."""
        partition = self._partition(fleet)
        own = {at: offset for at, offset in self._joined().positions().items() if at.partition == partition}
        own[self._fleet_topic.at] = self._fleet_topic.position
        return {str(at): offset for at, offset in sorted(own.items())}


def _is_new(now: FleetState, command: Command) -> bool:
    """Whether a command is the first of a service that holds nothing here, so that another fleet may have had it."""
    known = now.services.get(command.service)
    holds = known is not None and bool(known.instances)
    return not holds and not command.dry_run and (known is None or known.entry.command.revision != command.revision)
