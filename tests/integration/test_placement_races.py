"""What two workers, a fleet that changes under a plan, and commands faster than cycles do to each other. In memory and on real servers."""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from heteroscale.bus.log import Log
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.fleet import NodeState
from heteroscale.contracts.placements import PlacementStatus
from heteroscale.placement import app
from heteroscale.placement.inventory.entries import FleetImage, Standing
from heteroscale.placement.inventory.gang import Gang, Outcome
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Inventory, NodeSync
from heteroscale.placement.settings import PlacementSettings
from heteroscale.runtime import metrics
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support import history, placement_stage
from support.gangs import node
from support.history import Recorder
from support.placement_driver import command
from support.placement_stage import instances

AtEnd = list[Callable[[], Awaitable[None]]]
GPUS = {f"n{at}": 8 for at in range(6)}
LEASE_MS = 1_000
K = ActuationKind


staged = functools.partial(placement_stage.staged, names=GPUS)


class Slow(Recorder):
    """Before the inventory is read, once, something else happens."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def read(self, fleet: str) -> FleetImage | None:
        """As the inventory, a little later."""
        if self.meanwhile is not None:
            happening, self.meanwhile = self.meanwhile, None
            await happening()
        return await self._inventory.read(fleet)


async def test_a_generation_that_came_and_was_forgotten_during_a_take_over(memory_log: Log, at_end: AtEnd) -> None:
    """One number, one content: what another worker published of a generation that the server forgot is seen, and gone beyond."""
    stage, inventory = await staged(memory_log, "heteroscale", at_end), MemoryInventory()
    stage.start(inventory)
    await stage.answer(command())
    await stage.stop()
    slow: Any = (slowed := Slow(inventory))
    over = asyncio.Event()

    async def generation() -> None:
        """The server starts anew, a worker goes on under another generation; then the server forgets all of that."""
        before = copy.deepcopy(inventory._fleets)
        inventory.restart()
        stage.start(inventory, group="other")
        await stage.answer(command(2, revision=2, after_ms=1))
        await stage.kill()
        inventory._fleets = before
        inventory.restart()
        over.set()

    slowed.meanwhile = generation
    context = Context(log=memory_log, prefix=stage.prefix, health=Health())
    worker = asyncio.create_task(app.serve(context, PlacementSettings(poll_ms=50), slow))
    await over.wait()
    forgotten = max(one.gen for one in stage.placements)
    placed = await stage.answer(command(service="other", after_ms=2))
    assert placed.gen > forgotten
    context.stop.set()
    await worker
    assert ("other", PlacementStatus.UNPLACED) == (placed.service, placed.status), "six GPUs are known to be taken"
    assert [] == await stage.judged(inventory, GPUS)


class Interrupted(Recorder):
    """Between plan and reservation something else happens, once: `meanwhile` is called with what was planned."""

    meanwhile: Callable[[Sequence[Gang]], Awaitable[None]] | None = None

    async def apply(self, gangs: Sequence[Gang]) -> list[Outcome]:
        """As the inventory, a little later."""
        if gangs and self.meanwhile is not None:
            happening, self.meanwhile = self.meanwhile, None
            await happening(gangs)
        return await super().apply(gangs)


async def test_a_pause_past_the_lease_between_plan_and_reservation(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """NO-OVERLAP, ONCE: while one worker sleeps on its plan, another takes over and places; the sleeper's plan is refused by its fence."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    sleeper, asleep, awake = Interrupted(inventory), asyncio.Event(), asyncio.Event()
    sleeping: Any = sleeper

    async def sleep(gangs: Sequence[Gang]) -> None:
        del gangs
        asleep.set()
        await awake.wait()

    sleeper.meanwhile = sleep
    first = stage.start(sleeping, lease_ms=LEASE_MS)
    await stage.send(command(), command(service="other", after_ms=1))
    await asleep.wait()
    second = Recorder(inventory)
    waking: Any = second
    stage.start(waking, group="other", lease_ms=LEASE_MS)
    placed = await stage.until(lambda one: one.service == "other")
    await asyncio.sleep(LEASE_MS / 1_000)
    awake.set()
    async with asyncio.timeout(10):
        while not first.metrics.value(metrics.PLACEMENT_REFUSED, why="fence"):
            await asyncio.sleep(0.01)
    await stage.answer(command(after_ms=2))
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)
    assert [] == history.of_gangs([*sleeper.answers, *second.answers], GPUS)
    image = await inventory.read("default")
    assert image is not None
    assert 6 == len(image.instances)
    assert {one.id for one in instances(placed)} <= image.instances.keys()


async def test_a_node_that_goes_between_plan_and_reservation(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """The reservation names the node that could not give, is planned again on the fleet as it is, and the record says so."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    racing: Any = (racer := Interrupted(inventory))
    stage.start(racing)
    await stage.answer(command(0))
    gone: list[str] = []

    async def reload(gangs: Sequence[Gang]) -> None:
        """Another worker has seen a fleet record that ours has not: the first planned node is cordoned."""
        gone.append(min(gangs[0].takes))
        await stage.nodes(record := node(gone[0], state=NodeState.CORDONED))
        image = await inventory.read("default")
        assert image is not None
        changed = msgspec.structs.replace(image.nodes[gone[0]], record=record, revision=len(GPUS), standing=Standing.CORDONED)
        fence = gangs[0].fence
        await inventory.sync(NodeSync(fleet="default", gen=image.gen, fence=fence, rev=image.rev, nodes={gone[0]: changed}))

    racer.meanwhile = reload
    placed = await stage.answer(command(revision=2, after_ms=1))
    assert placed.inputs is not None
    assert gone == [conflict.node for conflict in placed.inputs.conflicts]
    assert (3, set()) == (len(instances(placed)), {at for one in instances(placed) for at in one.nodes} & set(gone))
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)
    assert [] == history.of_gangs(racer.answers, GPUS)


async def test_commands_of_one_batch_are_one_cycle(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """Coalescing: of revisions that come together only the newest is carried out, so nothing is started that is no longer wanted."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    await stage.send(*(command(2 - number % 2, revision=number + 1, after_ms=number) for number in range(20)))
    recording: Any = (recorder := Recorder(inventory))
    stage.start(recording)
    placed = await stage.until(lambda one: one.revision == 20)
    await stage.stop()
    assert (3, 1) == (len(instances(placed)), len(recorder.answers))
    assert [] == await stage.judged(inventory, GPUS)


async def test_what_found_no_room_is_placed_when_room_is_made(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """Nobody repeats the command: the acknowledgement that frees GPUs is what places it. A dry run takes none."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    stage.start(inventory)
    first = await stage.answer(command(2))
    waiting = await stage.answer(command(service="late", after_ms=1))
    assert (PlacementStatus.UNPLACED, {"decode": 2, "prefill": 1}) == (waiting.status, waiting.shortfall)
    asked = await stage.answer(command(service="shadow", after_ms=2, dry_run=True))
    assert (True, PlacementStatus.UNPLACED) == (asked.dry_run, asked.status)
    await stage.answer(command(1, revision=2, after_ms=3))
    leaving = [one.id for one in instances(stage.placements[-1]) if one.state == "stopping"]
    assert 3 == len(leaving)
    asked = await stage.answer(command(service="shadow", after_ms=4, dry_run=True))
    assert PlacementStatus.UNPLACED is asked.status, "GPUs of a process that still runs are not free"
    await stage.acknowledge(first, K.STOPPED, leaving)
    late = await stage.until(lambda one: one.service == "late" and not one.shortfall)
    assert (3, waiting.command_id) == (len(instances(late)), late.command_id)
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)
