"""The subscriber SDK: `async for assignment in subscriber`, and acknowledgements back. Level-triggered, so it keeps no state.

A subscriber first reads its topic to the end and hands out the newest record of each service, then each newer one as it comes;
what is overtaken while the actuator works is skipped. Starting again therefore loses nothing and repeats only what stands.

    async with PlacementSubscriber(log, prefix, Interest(actuator="my-operator", fleet="default")) as subscriber:
        async for assignment in subscriber:
            for task in orders.tasks(assignment.value):
                ...
                await subscriber.acknowledge.ready(assignment.value, task.instance.id)
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import AsyncIterator, Collection
from types import TracebackType
from typing import Final, Generic, NamedTuple, Self, TypeVar

import msgspec

from heteroscale.actuation import orders
from heteroscale.bus import scan
from heteroscale.bus.dead_letters import Guard, Limits
from heteroscale.bus.log import Entry, Log, Reader, Record
from heteroscale.bus.pause import stopped_within
from heteroscale.contracts import codec, keys
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Retryable
from heteroscale.contracts.names import FleetName, InstanceName, ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import logs, metrics
from heteroscale.runtime.metering import dead_letter_counter
from heteroscale.runtime.metrics import Metrics

POLL_MS: Final = 500
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 5.0
STAGE: Final = "actuation"

V = TypeVar("V", Placement, Command)


class Interest(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscriber wants to hear of; null means all. `actuator` is its name in acknowledgements.

    `limits`: how many unusable records it takes before it stops; null has the defaults.
    """

    actuator: str
    fleet: FleetName | None = None
    services: Collection[ServiceName] | None = None
    limits: Limits | None = None

    def covers(self, service: ServiceName, fleet: FleetName) -> bool:
        """Whether a record is for this subscriber."""
        return (self.fleet is None or fleet == self.fleet) and (self.services is None or service in self.services)


class Assignment(NamedTuple, Generic[V]):
    """The newest word on a service, and the one handed out before it (null after a start)."""

    value: V
    previous: V | None


class Acknowledger:
    """Writes actuations.v1: what became of instances. Keyed by fleet, stamped with the assignment's own time."""

    def __init__(self, log: Log, prefix: str, actuator: str, registry: Metrics | None = None) -> None:
        self._log = log
        self._topic = topic_name(prefix, Topic.ACTUATIONS)
        self._actuator = actuator
        self._registry = registry

    async def starting(self, assignment: Placement | Command, instance: InstanceName, detail: str | None = None) -> None:
        """A process has been asked for."""
        await self.send(assignment, instance, ActuationKind.STARTING, detail)

    async def ready(self, assignment: Placement | Command, instance: InstanceName, detail: str | None = None) -> None:
        """It serves."""
        await self.send(assignment, instance, ActuationKind.READY, detail)

    async def failed(self, assignment: Placement | Command, instance: InstanceName, detail: str | None = None) -> None:
        """It went wrong, and no process is left."""
        await self.send(assignment, instance, ActuationKind.FAILED, detail)

    async def stopped(self, assignment: Placement | Command, instance: InstanceName, detail: str | None = None) -> None:
        """It ended as asked, and no process is left."""
        await self.send(assignment, instance, ActuationKind.STOPPED, detail)

    async def send(self, assignment: Placement | Command, instance: InstanceName, kind: ActuationKind, detail: str | None = None) -> None:
        """Durable when this returns. Raises Retryable; sending again is harmless."""
        message = Actuation(
            service=assignment.service,
            fleet=assignment.fleet,
            instance=instance,
            at_ms=assignment.at_ms,
            kind=kind,
            actuator=self._actuator,
            detail=detail,
        )
        await self._log.append([Entry(self._topic, message.fleet.encode(), codec.encode(message), message.at_ms)])
        if self._registry is not None:
            self._registry.add(metrics.ACKNOWLEDGEMENTS, 1, kind=kind.value)


class Subscriber(abc.ABC, Generic[V]):
    """The common part; use PlacementSubscriber or CommandSubscriber."""

    topic: Topic
    kind: type[V]

    def __init__(
        self, log: Log, prefix: str, interest: Interest, *, stop: asyncio.Event | None = None, registry: Metrics | None = None
    ) -> None:
        self._log = log
        self._name = topic_name(prefix, self.topic)
        self._interest = interest
        self._stop = asyncio.Event() if stop is None else stop
        self._registry = registry
        counter = None if registry is None else dead_letter_counter(registry)
        self._guard = Guard(log, prefix, STAGE, limits=interest.limits, counter=counter)
        self._newest: dict[ServiceName, V] = {}
        self._reader: Reader | None = None
        self._logger = logs.logger(actuator=interest.actuator, topic=self._name)
        self.acknowledge = Acknowledger(log, prefix, interest.actuator, registry)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Assignment[V]]:
        """Assignments until `stop`. While the log is away it waits and goes on; raises Broken if most records cannot be read."""
        pause_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            try:
                fresh = await (self._catch_up() if self._reader is None else self._next())
            except Retryable as error:
                self._logger.warning("log_awaited", error=str(error), pause_s=pause_s)
                await stopped_within(self._stop, pause_s)
                pause_s = min(BACKOFF_MAX_S, pause_s * 2)
                continue
            pause_s = BACKOFF_FIRST_S
            for service in sorted(fresh):
                previous, value = self._newest.get(service), fresh[service]
                self._newest[service] = value
                self._count("handed")
                yield Assignment(value, previous)

    async def close(self) -> None:
        """Let go of the reader."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    @abc.abstractmethod
    def is_newer(self, candidate: V, than: V | None) -> bool:
        """Whether a record replaces another of its service."""

    async def _catch_up(self) -> dict[ServiceName, V]:
        """The newest record of each service as the topic stands; following starts right behind."""
        partitions = await scan.partitions_of(self._log, [self._name])
        ends = await self._log.end_offsets(partitions)
        fresh: dict[ServiceName, V] = {}
        async for batch in scan.to_end(self._log, partitions):
            fresh |= await self._fold(batch, fresh)
            ends |= {record.at: max(ends[record.at], record.offset + 1) for record in batch}
        self._reader = self._log.reader(ends)
        return fresh

    async def _next(self) -> dict[ServiceName, V]:
        if self._reader is None:
            return {}
        return await self._fold(await self._reader.poll(timeout_ms=POLL_MS), {})

    async def _fold(self, records: list[Record], before: dict[ServiceName, V]) -> dict[ServiceName, V]:
        """The newest record of each service among `records`, as far as it is news."""
        fresh: dict[ServiceName, V] = {}
        for record in records:
            if record.value is None or keys.is_dry_run(record.key):
                continue
            value = await self._guard.decode(record, self.kind)
            if value is None or not self._interest.covers(value.service, value.fleet):
                continue
            known = fresh.get(value.service) or before.get(value.service) or self._newest.get(value.service)
            if self.is_newer(value, known):
                fresh[value.service] = value
            else:
                self._count("skipped")
        return fresh

    def _count(self, outcome: str) -> None:
        if self._registry is not None:
            self._registry.add(metrics.ASSIGNMENTS, 1, outcome=outcome)


class PlacementSubscriber(Subscriber[Placement]):
    """Whole assignments of placements.v1; a record not above the last (`gen`, `seq`) and dry-run answers are passed over."""

    topic = Topic.PLACEMENTS
    kind = Placement

    def is_newer(self, candidate: Placement, than: Placement | None) -> bool:
        """By (`gen`, `seq`)."""
        return orders.is_newer_placement(candidate, than)


class CommandSubscriber(Subscriber[Command]):
    """Absolute targets of commands.v1, for services whose spec says `placement: none`; affirmations come through by their time."""

    topic = Topic.COMMANDS
    kind = Command

    def is_newer(self, candidate: Command, than: Command | None) -> bool:
        """By (`revision`, `at_ms`)."""
        return orders.is_newer_command(candidate, than)
