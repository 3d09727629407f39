"""The reconciler on a running service: what it says again, what it frees after a second look, what it quarantines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from heteroscale.bus.log import Entry, Log
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.placements import Placement, PlacementStatus
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.placement import app
from heteroscale.placement.inventory.entries import Standing
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.settings import PlacementSettings
from heteroscale.runtime import metrics
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support.gangs import node
from support.placement_driver import actuation, command
from support.placement_stage import Stage, instances

AtEnd = list[Callable[[], Awaitable[None]]]
GPUS = {f"n{at}": 8 for at in range(9)}
PREFIX = "heteroscale"
K = ActuationKind
PERIOD_MS = 200


class Deaf:
    """A log that loses acknowledgements on their way to the group: the worker that polls never sees those it names."""

    def __init__(self, log: Log, unheard: set[str]) -> None:
        self._log = log
        self._unheard = unheard

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def join(self, *arguments: object, **hooks: object) -> object:
        """A member that loses them."""
        member = await self._log.join(*arguments, **hooks)  # type: ignore[arg-type] # handed on as it came
        poll = member.poll

        async def filtered(*, timeout_ms: int) -> object:
            records = await poll(timeout_ms=timeout_ms)
            return [one for one in records if not any(name.encode() in (one.value or b"") for name in self._unheard)]

        member.poll = filtered  # type: ignore[method-assign, assignment] # for this test's member alone
        return member


async def staged(
    log: Log, inventory: Inventory, at_end: AtEnd, unheard: set[str] | None = None, prefix: str = PREFIX
) -> tuple[Stage, Context]:
    """A service with a short period, and one that has converged."""
    stage = Stage(log, prefix)
    at_end.append(stage.close)
    await stage.build(*(node(name) for name in GPUS))
    context = Context(log=Deaf(log, unheard if unheard is not None else set()), prefix=prefix, health=Health())  # type: ignore[arg-type] # all else is handed on
    settings = PlacementSettings(group="reconciled", poll_ms=20, reconcile_ms=PERIOD_MS)
    stage.workers[asyncio.create_task(app.serve(context, settings, inventory))] = context
    placed = await stage.answer(command())
    await stage.acknowledge(placed, K.READY)
    await stage.until(lambda one: one.status is PlacementStatus.CONVERGED)
    return stage, context


async def append(stage: Stage, placement: Placement) -> None:
    """Somebody else writes placements.v1."""
    topic = topic_name(PREFIX, Topic.PLACEMENTS)
    await stage.log.append([Entry(topic, placement.service.encode(), codec.encode(placement), placement.at_ms)])


async def test_it_is_silent_where_all_agree(memory_log: Log, at_end: AtEnd) -> None:
    """No record, no change of the inventory, no finding, over several looks."""
    inventory = MemoryInventory()
    stage, context = await staged(memory_log, inventory, at_end)
    before, written = await inventory.read("default"), len(stage.placements)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(4 * PERIOD_MS / 1_000):
            await stage.until(lambda _: True)
    assert written == len(stage.placements)
    assert before == await inventory.read("default")
    assert 0 == sum(context.metrics.value(metrics.PLACEMENT_DISAGREEMENTS, fleet="default", kind=kind) for kind in ("behind", "ghost"))
    await stage.stop()


async def test_an_end_that_was_lost_on_the_way_is_heard_in_the_second_look(
    world: tuple[Log, Inventory], prefix: str, at_end: AtEnd
) -> None:
    """NO-LEAK: one observation frees nothing; the second one does, and what a person stopped is not replaced."""
    (log, inventory), unheard = world, set[str]()
    stage, _ = await staged(log, inventory, at_end, unheard, prefix)
    victim = instances(stage.placements[-1])[0]
    unheard.add(victim.id)
    await stage.send(actuation(victim.id, K.STOPPED, at_ms=stage.placements[-1].at_ms))
    await asyncio.sleep(PERIOD_MS / 2_000)
    image = await inventory.read("default")
    assert image is not None
    assert victim.id in image.instances
    after = await stage.until(lambda one: victim.id not in {two.id for two in instances(one)})
    assert (2, PlacementStatus.CONVERGED) == (len(instances(after)), after.status)
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)


async def test_another_content_under_the_same_number_is_overwritten(memory_log: Log, at_end: AtEnd) -> None:
    """SAME-ON-LOG: readers keep the first of two records of one (gen, seq); the right one comes again under the next seq."""
    inventory = MemoryInventory()
    stage, _ = await staged(memory_log, inventory, at_end)
    last = stage.placements[-1]
    wrong = msgspec.structs.replace(last, seq=(last.seq or 0) + 1, groups=[], at_ms=last.at_ms)
    await append(stage, wrong)
    await stage.send(command(after_ms=1))
    again = await stage.until(lambda one: (one.seq or 0) > (wrong.seq or 0))
    assert (last.gen, last.groups) == (again.gen, again.groups)
    await stage.stop()


async def test_a_ghost_puts_its_node_out(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """NO-OVERLAP: a process that a Placement once listed and that still runs quarantines its node until word of its end comes."""
    log, inventory = world
    stage, _ = await staged(log, inventory, at_end, prefix=prefix)
    before = stage.placements[-1]
    ghost = instances(before)[0]
    (at,) = ghost.nodes
    await stage.send(actuation(ghost.id, K.STOPPED))
    await stage.until(lambda one: len(instances(one)) == 2)
    await stage.send(actuation(ghost.id, K.READY, at_ms=before.at_ms + 1), actuation("stranger", K.READY))
    renewed = await stage.until(lambda one: one.gen > before.gen)
    assert ghost.id in {one.id for one in instances(renewed)}
    assert Standing.QUARANTINED is await standing(inventory, at)
    await stage.send(actuation(ghost.id, K.STOPPED, at_ms=before.at_ms + 2))
    await stage.until(lambda one: len(instances(one)) == 2)
    await stage.answer(command(after_ms=5))
    async with asyncio.timeout(5):
        while await standing(inventory, at) is not Standing.READY:
            await asyncio.sleep(0.02)
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)


async def standing(inventory: Inventory, name: str) -> Standing:
    """What a node may do."""
    image = await inventory.read("default")
    assert image is not None
    return image.nodes[name].standing


async def test_an_inventory_that_somebody_else_changed_is_read_again(memory_log: Log, at_end: AtEnd) -> None:
    """The worker's idea is compared with what is there; it takes over anew instead of going on with a wrong one."""
    inventory = MemoryInventory()
    stage, context = await staged(memory_log, inventory, at_end)
    assert 1 == context.metrics.value(metrics.PLACEMENT_TAKEOVERS, kind="rebuilt")
    fleet = inventory._fleets["default"]
    fleet.rev += 1
    async with asyncio.timeout(5):
        while not context.metrics.value(metrics.PLACEMENT_TAKEOVERS, kind="read"):
            await asyncio.sleep(0.02)
    after = await stage.answer(command(2, revision=2, after_ms=1))
    assert 6 == len(instances(after))
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)
