"""Real placement processes on real Kafka, and a Redis that dies with them: `heteroscale inventory check` is clean after every blow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from heteroscale.bus.connect import open_log
from heteroscale.bus.log import Entry
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts import codec
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.placement.inventory.scripts import Keys
from heteroscale.placement.placements_topic import PlacementsTopic
from support.own_redis import OwnRedis
from support.placement_driver import command
from support.processes import Fleet, Service

pytestmark = [pytest.mark.chaos, pytest.mark.kafka, pytest.mark.timeout(280)]

SERVICES = ("a", "b", "c")
BLOWS = ("kill the worker", "kill redis", "cut power", "two groups", "freeze the worker", "kill both")
LEASE_MS = 1_000
FROZEN_S = 9.0  # longer than lease and session
SESSION_MS = 6_000  # brokers take no less
ROUNDS = 5


@pytest.fixture
def redis_of_ours(tmp_path: Path) -> Iterator[OwnRedis]:
    """A Redis of this test alone."""
    if not OwnRedis.possible():
        pytest.skip("capability redis-server: none on PATH")
    with OwnRedis(tmp_path) as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, kafka: str, redis_of_ours: OwnRedis, prefix: str) -> Iterator[Fleet]:
    """Twelve nodes, no worker yet."""
    fleet = f"fleet-{prefix}"
    environment = {
        "HETEROSCALE_KAFKA": kafka,
        "HETEROSCALE_REDIS": redis_of_ours.url,
        "HETEROSCALE_PREFIX": prefix,
        "HETEROSCALE_FLEET": fleet,
        "HETEROSCALE_PLACEMENT_RECONCILE_MS": "500",
        "HETEROSCALE_PLACEMENT_LEASE_MS": str(LEASE_MS),
        "HETEROSCALE_SESSION_TIMEOUT_MS": str(SESSION_MS),
    }
    rows = [f"  - {{node: n{at}, gpu_type: H20, gpus: 8, at: {{cluster: c1, s2: A, s1: a1}}, state: ready}}" for at in range(12)]
    (tmp_path / "fleet.yaml").write_text(f"fleet: {fleet}\nnodes:\n" + "\n".join(rows) + "\n")
    with Fleet(environment, tmp_path) as processes:
        processes.run("topics", "create", "--keep-forever")
        processes.run("fleet", "import", "fleet.yaml")
        yield processes


async def order(world: Fleet, revision: int, dice: random.Random) -> None:
    """A new size for every service."""
    fleet, topic = world.environment["HETEROSCALE_FLEET"], topic_name(world.environment["HETEROSCALE_PREFIX"], Topic.COMMANDS)
    orders = [
        msgspec.structs.replace(command(dice.randint(0, 1), service=name, revision=revision, after_ms=revision * 1_000), fleet=fleet)
        for name in SERVICES
    ]
    log = await open_log(BusSettings(kafka=world.environment["HETEROSCALE_KAFKA"]))
    await log.append([Entry(topic, fleet.encode(), codec.encode(one), one.at_ms) for one in orders])
    await log.close()


def test_the_books_are_right_after_every_blow(world: Fleet, redis_of_ours: OwnRedis) -> None:
    """NO-LEAK, NO-OVERLAP, ONCE, WHOLE, SAME-ON-LOG and SAME-FLEET by the command that people run, and the newest command is obeyed."""
    dice = random.Random(7)
    worker = world.start("placement")
    for revision, blow in enumerate(BLOWS, 1):
        asyncio.run(order(world, revision, dice))
        time.sleep(dice.random() * 0.1)
        worker = strike(blow, world, redis_of_ours, worker, dice)
        obeyed(world, revision)
        world.run("inventory", "check", "--fleet", world.environment["HETEROSCALE_FLEET"])
    assert "" == world.run("dead-letters", "list", "--json").strip()


def test_a_standby_takes_over_in_seconds(world: Fleet) -> None:
    """After kill -9 of the worker that plans, its standby answers the next command as soon as the group has missed the dead one."""
    dice, waits = random.Random(1), []
    for _ in range(2):
        world.start("placement")
    for revision in range(1, 2 * ROUNDS, 2):
        asyncio.run(order(world, revision, dice))
        asyncio.run(answered(world, revision))
        planner = planner_of(world)
        planner.process.kill()
        planner.process.wait()
        began = time.monotonic()
        asyncio.run(order(world, revision + 1, dice))
        asyncio.run(answered(world, revision + 1))
        waits.append(time.monotonic() - began)
        world.run("inventory", "check", "--fleet", world.environment["HETEROSCALE_FLEET"])
        world.start("placement")
    print("seconds from kill -9 to the standby's answer:", *(f"{wait:.1f}" for wait in waits))  # noqa: T201 - pytest -s shows it
    assert max(waits) < SESSION_MS / 1_000 + 6


def planner_of(world: Fleet) -> Service:
    """The living process that holds the advisory lease; a dead one's lasts until it runs out."""
    key = Keys.of(world.environment["HETEROSCALE_FLEET"], world.environment["HETEROSCALE_PREFIX"]).lease
    deadline = time.monotonic() + 20
    with contextlib.closing(redis.Redis.from_url(world.environment["HETEROSCALE_REDIS"])) as client:
        while True:
            holder = client.get(key)
            pid = holder.decode().rpartition(":")[2] if isinstance(holder, bytes) else ""
            for service in world.services:
                if str(service.process.pid) == pid and service.process.poll() is None:
                    return service
            assert time.monotonic() < deadline
            time.sleep(0.05)


async def answered(world: Fleet, revision: int) -> None:
    """Wait until every service has a Placement of this revision on the log."""
    log = await open_log(BusSettings(kafka=world.environment["HETEROSCALE_KAFKA"]))
    index = PlacementsTopic(log, topic_name(world.environment["HETEROSCALE_PREFIX"], Topic.PLACEMENTS))
    async with asyncio.timeout(60):
        while True:
            await index.catch_up()
            newest = [index.newest[name].placement().revision if name in index.newest else 0 for name in SERVICES]
            if min(newest) >= revision:
                break
            await asyncio.sleep(0.02)
    await log.close()


def strike(blow: str, world: Fleet, server: OwnRedis, worker: Service, dice: random.Random) -> Service:
    """One blow; the worker that goes on."""
    if blow in ("kill the worker", "kill both"):
        worker.process.kill()
        worker.process.wait()
    if blow in ("kill redis", "kill both", "cut power"):
        server.kill()
        if blow == "cut power":
            server.cut_short(dice.randint(1, 2_000))
        server.start()
    if blow == "two groups":  # each sees every command, and neither knows of the other
        return world.start("placement", extra={"HETEROSCALE_PLACEMENT_GROUP": "other"})
    if blow == "freeze the worker":
        worker.signal(signal.SIGSTOP)
        other = world.start("placement", wait=False)
        time.sleep(FROZEN_S)
        worker.signal(signal.SIGCONT)
        return other
    return world.start("placement") if worker.process.poll() is not None else worker


def obeyed(world: Fleet, revision: int) -> None:
    """Wait until every service has a Placement of the newest revision."""
    deadline = time.monotonic() + 60
    waiting = list(SERVICES)
    while waiting:
        waiting = [name for name in waiting if revision_of(world, name) < revision]
        assert time.monotonic() < deadline, waiting


def revision_of(world: Fleet, service: str) -> int:
    """Of its newest Placement; 0 before the first."""
    try:
        return int(json.loads(world.run("placements", "show", service, "--json"))["revision"])
    except AssertionError:
        time.sleep(0.3)
        return 0
