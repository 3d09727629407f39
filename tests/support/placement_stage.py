"""The placement service on a log, with a fleet, and the few moves that tests of it need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import pytest
import redis.asyncio as redis_client

from heteroscale.bus import catalogue
from heteroscale.bus.log import Entry, Log, Reader, TopicPartition
from heteroscale.contracts import codec, keys
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.commands import Command
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.placements import PlacedInstance, Placement
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.placement import app, check
from heteroscale.placement.fleet_topic import FleetTopic
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.inventory.redis import RedisInventory, connect
from heteroscale.placement.placements_topic import PlacementsTopic
from heteroscale.placement.settings import PlacementSettings
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support import builders, history
from support.gangs import node

AtEnd = list[Callable[[], Awaitable[None]]]
PATIENCE_S = 20.0
WORLDS = ["memory", pytest.param("real", marks=[pytest.mark.kafka, pytest.mark.redis])]


def world_of(request: pytest.FixtureRequest, at_end: AtEnd) -> tuple[Log, Inventory]:
    """A log and an inventory, as one of WORLDS says: both in memory, or both real."""
    if request.param == "memory":
        return request.getfixturevalue("memory_log"), MemoryInventory()
    log: Log = request.getfixturevalue("kafka_log")
    return log, redis_inventory(request.getfixturevalue("redis_url"), request.getfixturevalue("prefix"), at_end)


def redis_inventory(url: str, prefix: str, at_end: AtEnd) -> RedisInventory:
    """An inventory under the test's prefix; its keys are removed afterwards."""
    client = connect(url, timeout_ms=2_000)
    inventory = RedisInventory(client, prefix=prefix)

    async def wipe() -> None:
        assert isinstance(client, redis_client.Redis)
        if keys := [key async for key in client.scan_iter(match=f"{{hs:{prefix}/*", count=10_000)]:
            await client.delete(*keys)
        await inventory.close()

    at_end.append(wipe)
    return inventory


@dataclass(slots=True)
class Stage:
    """One prefix. `workers` are services that run in this process."""

    log: Log
    prefix: str
    placements: list[Placement] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    keys: list[tuple[bytes | None, int]] = field(default_factory=list)
    workers: dict[asyncio.Task[None], Context] = field(default_factory=dict)
    _reader: Reader | None = None

    async def build(self, *nodes: FleetNode) -> None:
        """Create the topics and write the fleet."""
        await catalogue.create(self.log, self.prefix, keep_forever=True)
        await self.nodes(*nodes)
        topic = topic_name(self.prefix, Topic.PLACEMENTS)
        self._reader = self.log.reader({TopicPartition(topic, p): 0 for p in range(CATALOGUE[Topic.PLACEMENTS].partitions)})

    async def nodes(self, *nodes: FleetNode) -> None:
        """Fleet records."""
        topic = topic_name(self.prefix, Topic.FLEET)
        await self.log.append(
            [Entry(topic, keys.node_key(one.fleet, one.node).encode(), codec.encode(one), builders.AT_MS, 0) for one in nodes]
        )

    def start(self, inventory: Inventory, *, group: str = "placement", reconcile_ms: int = 60_000, lease_ms: int = 15_000) -> Context:
        """One more worker."""
        context = Context(log=self.log, prefix=self.prefix, health=Health())
        settings = PlacementSettings(group=f"{self.prefix}-{group}", poll_ms=50, reconcile_ms=reconcile_ms, lease_ms=lease_ms)
        self.workers[asyncio.create_task(app.serve(context, settings, inventory))] = context
        return context

    async def stop(self) -> None:
        """End all workers; an error in one is raised."""
        for context in self.workers.values():
            context.stop.set()
        await asyncio.gather(*self.workers)
        self.workers.clear()

    async def kill(self) -> None:
        """End all workers where they stand. aiokafka may swallow a cancellation, so it is repeated."""
        while waiting := [task for task in self.workers if not task.done()]:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting, timeout=0.2)
        self.workers.clear()

    async def close(self) -> None:
        """Stop and let go."""
        await self.kill()
        if self._reader is not None:
            await self._reader.close()

    async def send(self, *messages: Command | Actuation) -> None:
        """Commands and acknowledgements, by fleet."""
        entries = [
            Entry(
                topic_name(self.prefix, Topic.COMMANDS if isinstance(one, Command) else Topic.ACTUATIONS),
                one.fleet.encode(),
                codec.encode(one),
                one.at_ms,
            )
            for one in messages
        ]
        await self.log.append(entries)

    async def until(self, done: Callable[[Placement], bool]) -> Placement:
        """Read placements until one is `done`; it."""
        assert self._reader is not None
        async with asyncio.timeout(PATIENCE_S):
            while True:
                batch = await self._reader.poll(timeout_ms=200)
                read = [codec.decode(Placement, record.value or b"") for record in batch]
                self.placements += read
                self.payloads += [record.value or b"" for record in batch]
                self.keys += [(record.key, record.partition) for record in batch]
                for placement in read:
                    if done(placement):
                        return placement
                for task in self.workers:
                    if task.done() and not task.cancelled():
                        await task

    async def answer(self, command: Command) -> Placement:
        """Send a command and wait for the Placement that answers it."""
        await self.send(command)
        return await self.until(lambda one: one.service == command.service and one.at_ms >= command.at_ms and one.command_id == command.id)

    async def acknowledge(self, placement: Placement, kind: ActuationKind, names: Iterable[str] | None = None) -> None:
        """Acknowledgements for a Placement's instances."""
        wanted = set(names) if names is not None else {one.id for one in instances(placement)}
        await self.send(
            *(
                Actuation(
                    service=placement.service, fleet=placement.fleet, instance=name, at_ms=placement.at_ms, kind=kind, actuator="test"
                )
                for name in sorted(wanted)
            )
        )

    async def judged(self, inventory: Inventory, gpus: dict[str, int], fleet: str = "default") -> list[str]:
        """Everything that is wrong now: invariants, the log against the inventory, the history."""
        index = PlacementsTopic(self.log, topic_name(self.prefix, Topic.PLACEMENTS))
        await index.catch_up()
        nodes = FleetTopic(self.log, topic_name(self.prefix, Topic.FLEET))
        await nodes.catch_up()
        await nodes.close()
        image = await inventory.read(fleet)
        if image is None:
            return ["there is no inventory"]
        newest = {service: one.placement() for service, one in index.of(fleet).items()}
        violations = [
            *check.inventory(image),
            *check.against_log(image, newest, index.elsewhere(fleet)),
            *check.against_fleet(image, nodes.newest(fleet)),
        ]
        return [f"{one.invariant} {one.place}: {one.found}" for one in violations] + history.of_placements(self.payloads, gpus)


def instances(placement: Placement) -> list[PlacedInstance]:
    """All instances of a Placement."""
    return [one for group in placement.groups for one in group.instances]


async def staged(log: Log, prefix: str, at_end: AtEnd, names: Iterable[str]) -> Stage:
    """Topics and nodes of 8 GPUs each; let go of when the test is over."""
    stage = Stage(log, prefix)
    at_end.append(stage.close)
    await stage.build(*(node(name) for name in names))
    return stage
