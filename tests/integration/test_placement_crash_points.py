"""The worker dies at every step of a cycle (docs/inventory.md lists them); the next one finishes it, and the books are right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from heteroscale.bus.log import Entry, Log
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.placements import PlacementStatus
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.placement import app
from heteroscale.placement.crash_points import CrashPoint
from heteroscale.placement.inventory.gang import Gang, Outcome
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.inventory.redis import RedisInventory
from heteroscale.placement.settings import PlacementSettings
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support.gangs import node
from support.placement_driver import command
from support.placement_stage import Stage, instances, world_of

AtEnd = list[Callable[[], Awaitable[None]]]
GPUS = {f"n{at}": 8 for at in range(9)}


class Killed(BaseException):
    """Stands for kill -9: nothing in the service may catch it."""


class Doom:
    """Kills at `point` the next time it is passed; what was written until then stays."""

    def __init__(self, point: str) -> None:
        self.point: str | None = point

    def __call__(self, point: str) -> None:
        """Die here, if this is the point."""
        if self.point == point:
            self.point = None
            raise Killed


class Doomed:
    """An inventory of which the worker dies between the scripts of a cycle."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self.doom: Doom | None = None

    async def apply(self, gangs: Sequence[Gang]) -> list[Outcome]:
        """The first gang, and the others."""
        outcomes = await self._inventory.apply(gangs[:1])
        if self.doom is not None and len(gangs) > 1:
            self.doom("between two gangs")
        return outcomes + await self._inventory.apply(gangs[1:])

    async def restart(self) -> None:
        """Be another run of the server."""
        if isinstance(self._inventory, MemoryInventory):
            self._inventory.restart()
        elif isinstance(self._inventory, RedisInventory):
            client: Any = self._inventory._client
            await client.hset(self._inventory.keys("default").meta, "run", "0" * 40)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inventory, name)


class Watched:
    """A log of which half a batch may be the last thing a worker writes."""

    def __init__(self, log: Log, prefix: str, doom: Doom) -> None:
        self._log = log
        self._topic = topic_name(prefix, Topic.PLACEMENTS)
        self._doom = doom

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Half of the Placements are on the log when it dies."""
        ours = any(entry.topic == self._topic for entry in entries)
        if ours and self._doom.point == "half published":
            await self._log.append(entries[: len(entries) // 2])
            self._doom("half published")
        return await self._log.append(entries)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


POINTS = [*CrashPoint, "between two gangs", "half published"]


@pytest.fixture(params=["memory", pytest.param("real", marks=[pytest.mark.chaos, pytest.mark.kafka, pytest.mark.redis])])
def world(request: pytest.FixtureRequest, at_end: AtEnd) -> tuple[Log, Inventory]:
    """A log and an inventory: both in memory, or both real."""
    return world_of(request, at_end)


@pytest.mark.parametrize("point", POINTS)
async def test_the_next_worker_finishes_what_a_dead_one_began(point: str, world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """ONCE, NOTHING-LOST: two commands of one batch are placed exactly once each, and acknowledgements are not lost."""
    log, kept = world
    inventory: Any = Doomed(kept)
    stage = Stage(log, prefix)
    at_end.append(stage.close)
    await stage.build(*(node(name) for name in GPUS))
    stage.start(inventory)
    before = await stage.answer(command(service="old"))
    await stage.stop()
    if point in (CrashPoint.BEFORE_BUILD, CrashPoint.AFTER_BUILD):
        await inventory.restart()
    await stage.send(command(service="a", after_ms=1), command(service="b", after_ms=2))
    await stage.acknowledge(before, ActuationKind.READY)
    await dies(stage, log, inventory, Doom(point))
    stage.start(inventory)
    third = await stage.answer(command(service="old", revision=2, after_ms=3))
    await asyncio.sleep(0.1)
    await stage.stop()
    assert PlacementStatus.CONVERGED is third.status
    assert [] == await stage.judged(inventory, GPUS)
    image = await inventory.read("default")
    assert image is not None
    newest = {one.service: one for one in sorted(stage.placements, key=lambda one: (one.gen, one.seq or 0))}
    assert {"old": 3, "a": 3, "b": 3} == {name: len(instances(one)) for name, one in newest.items()}
    assert 9 == len(image.instances)
    orders = [(one.service, one.gen, one.seq) for one in stage.placements]
    assert len(orders) == len(set(orders)), "what the log had was written again"
    assert [] == await inventory.outbox("default")


async def dies(stage: Stage, log: Log, inventory: Any, doom: Doom) -> None:
    """Run a worker until the point kills it."""
    watched: Any = Watched(log, stage.prefix, doom)
    inventory.doom = doom
    context = Context(log=watched, prefix=stage.prefix, health=Health())
    settings = PlacementSettings(group=f"{stage.prefix}-placement", poll_ms=50)
    worker = app.serve(context, settings, inventory, passing=doom)
    with pytest.raises(Killed):
        async with asyncio.timeout(10):
            await worker
