"""The placement service on a log: in memory, and on real Kafka and Redis. The books are checked after every story."""

from __future__ import annotations

import asyncio
import functools
import statistics
import time
from collections.abc import Awaitable, Callable

import pytest

from heteroscale.bus import dead_letters, partitioning
from heteroscale.bus.log import Entry, Log
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.placements import PlacementStatus
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.inventory.redis import RedisInventory
from support import placement_stage
from support.placement_driver import command
from support.placement_stage import instances, redis_inventory

AtEnd = list[Callable[[], Awaitable[None]]]
NODES = 9
GPUS = {f"n{at}": 8 for at in range(NODES)}
K = ActuationKind


staged = functools.partial(placement_stage.staged, names=GPUS)


async def test_from_command_to_convergence(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """A command is placed, acknowledged, affirmed; a dry run is answered beside it; the service is ready."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    context = stage.start(inventory)
    placed = await stage.answer(command())
    assert PlacementStatus.PROGRESSING is placed.status
    await stage.acknowledge(placed, K.READY)
    await stage.until(lambda one: one.status is PlacementStatus.CONVERGED)
    affirmed = await stage.answer(command(after_ms=60_000))
    assert (PlacementStatus.CONVERGED, 3) == (affirmed.status, len(instances(affirmed)))
    answer = await stage.answer(command(2, service="shadow", after_ms=60_001, dry_run=True))
    assert (None, True, 6) == (answer.seq, answer.dry_run, len(instances(answer)))
    partitions = CATALOGUE[Topic.PLACEMENTS].partitions
    assert (b"shadow#dry-run", partitioning.partition_of(b"shadow", partitions)) == stage.keys[-1]
    assert context.health.ready
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)


async def test_what_was_handled_is_not_handled_again(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """ONCE: a worker that reads the whole log again (as after a lost commit) changes nothing and writes nothing."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    stage.start(inventory)
    placed = await stage.answer(command())
    await stage.acknowledge(placed, K.READY)
    before = await stage.until(lambda one: one.status is PlacementStatus.CONVERGED)
    await stage.kill()
    stage.start(inventory, group="again")
    after = await stage.answer(command(2, revision=2, after_ms=1))
    assert {one.id for one in instances(before)} <= {one.id for one in instances(after)}
    assert (before.seq or 0) + 1 == after.seq
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)


async def test_two_workers_at_once_never_reserve_twice(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """NO-OVERLAP, ONCE: two groups plan one fleet at the same time; whatever their fences do to each other, the books are right."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    stage.start(inventory)
    stage.start(inventory, group="other")
    for number in range(12):
        await stage.send(command(service=f"s{number % 4}", revision=number + 1, after_ms=number))
    await stage.until(lambda one: one.revision == 12)
    await asyncio.sleep(0.2)
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)
    image = await inventory.read("default")
    assert image is not None
    assert 9 == len(image.instances)


async def test_a_lost_inventory_is_rebuilt_from_the_log(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """All keys gone in mid-run: the next command is placed under a new generation, beside everything that was reserved before."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    stage.start(inventory)
    placed = await stage.answer(command())
    await stage.acknowledge(placed, K.READY)
    before = await stage.until(lambda one: one.status is PlacementStatus.CONVERGED)
    if isinstance(inventory, MemoryInventory):
        inventory.lose("default")
    else:
        assert isinstance(inventory, RedisInventory)
        await inventory._client.delete(*inventory.keys("default"))
    other = await stage.answer(command(service="other", after_ms=5))
    assert before.gen + 1 == other.gen
    again = await stage.answer(command(after_ms=60_000))
    assert (before.groups, before.gen + 1) == (again.groups, again.gen)
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)


async def test_a_standby_takes_over(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """Two workers of one group share the partitions; when one leaves, the other goes on with its fleet, under a higher fence."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    stage.start(inventory)
    before = await stage.answer(command())
    stage.start(inventory)
    await asyncio.sleep(1.0)
    await stage.answer(command(after_ms=1))
    (first, context), *_ = stage.workers.items()
    context.stop.set()
    await first
    del stage.workers[first]
    began = time.perf_counter()
    after = await stage.answer(command(2, revision=2, after_ms=2))
    assert time.perf_counter() - began < 10
    assert {one.id for one in instances(before)} <= {one.id for one in instances(after)}
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)


async def test_bad_records_go_to_dead_letters_and_the_rest_goes_on(world: tuple[Log, Inventory], prefix: str, at_end: AtEnd) -> None:
    """NOTHING-LOST: junk between two commands; both are placed."""
    log, inventory = world
    stage = await staged(log, prefix, at_end)
    stage.start(inventory)
    await log.append(
        [Entry(topic_name(prefix, Topic.COMMANDS), b"default", b"junk", 1), Entry(topic_name(prefix, Topic.FLEET), b"nowhere", b"{}", 1, 0)]
    )
    await stage.answer(command(after_ms=1))
    await stage.answer(command(after_ms=2))
    letters = [letter.dead_letter async for letter in dead_letters.read(log, prefix)]
    assert {("undecodable", "commands.v1"), ("key", "fleet.v1")} == {
        (letter.code, letter.topic.removeprefix(f"{prefix}.")) for letter in letters
    }
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)


@pytest.mark.kafka
@pytest.mark.redis
async def test_a_command_is_answered_in_milliseconds(kafka_log: Log, redis_url: str, prefix: str, at_end: AtEnd) -> None:
    """From the command's acknowledgement by Kafka to the Placement read back, on real servers with appendfsync always."""
    inventory = redis_inventory(redis_url, prefix, at_end)
    stage = await staged(kafka_log, prefix, at_end)
    stage.start(inventory)
    await stage.answer(command())
    waits = []
    for number in range(1, 31):
        began = time.perf_counter()
        await stage.answer(command(after_ms=number))
        waits.append((time.perf_counter() - began) * 1_000)
    print(f"command → placement: median {statistics.median(waits):.1f} ms, worst {max(waits):.1f} ms")  # noqa: T201 - pytest -s shows it
    assert statistics.median(waits) < 100
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)
