"""A service that moves between fleets: every reader takes the new fleet's assignments, and the old fleet forgets it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from heteroscale.actuation.orders import is_newer_placement
from heteroscale.bus.log import Log
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.placements import Placement
from heteroscale.placement.inventory.protocol import Inventory
from support.gangs import node
from support.placement_driver import command
from support.placement_stage import Stage, instances

AtEnd = list[Callable[[], Awaitable[None]]]
GPUS = {f"{fleet}{at}": 8 for fleet in ("east", "west") for at in range(6)}
PERIOD_MS = 200
K = ActuationKind


async def emptied(stage: Stage, placed: Placement, revision: int, after_ms: int) -> None:
    """The service lets everything in its fleet go."""
    await stage.send(command(0, revision=revision, after_ms=after_ms, fleet=placed.fleet))
    await stage.until(lambda one: one.fleet == placed.fleet and one.revision == revision)
    await stage.acknowledge(placed, K.STOPPED)
    await stage.until(lambda one: one.fleet == placed.fleet and one.revision == revision and not one.groups)


async def test_there_and_back_again(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """(gen, seq) rises from record to record whatever the fleet, so no reader drops one as stale; the books of both are right."""
    log, inventory = world
    stage = Stage(log, prefix)
    at_end.append(stage.close)
    await stage.build(*(node(name, fleet=name[:4]) for name in GPUS))
    stage.start(inventory, reconcile_ms=PERIOD_MS)
    await stage.answer(command(service="resident", fleet="west"))
    known = await stage.answer(command(fleet="east"))
    for number in range(1, 6):
        await stage.answer(command(after_ms=number, fleet="east"))
    revision = 1
    for fleet in ("west", "east"):
        await emptied(stage, known, revision + 1, revision * 1_000)
        revision += 2
        arrived = await stage.answer(command(revision=revision, after_ms=revision * 1_000, fleet=fleet))
        assert (fleet, 3) == (arrived.fleet, len(instances(arrived)))
        known = arrived
    await forgotten(inventory, "west")
    await stage.stop()
    own = [one for one in stage.placements if one.service == "chat"]
    newest: Placement | None = None
    for one in own:
        same = newest is not None and (one.gen, one.seq) == (newest.gen, newest.seq)
        assert same or is_newer_placement(one, newest), (one.fleet, one.gen, one.seq)
        newest = one
    assert [] == await stage.judged(inventory, GPUS, "east")
    assert [] == await stage.judged(inventory, GPUS, "west")


async def forgotten(inventory: Inventory, fleet: str) -> None:
    """Wait until a fleet knows nothing of the service that left it."""
    async with asyncio.timeout(10):
        while (image := await inventory.read(fleet)) is not None and "chat" in image.services:
            await asyncio.sleep(0.05)
