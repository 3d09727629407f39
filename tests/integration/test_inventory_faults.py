"""The inventory on a Redis that dies, forgets and swallows its answers. The books are right after every story."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heteroscale.bus.log import Log
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.errors import Broken, Retryable
from heteroscale.contracts.placements import PlacementStatus
from heteroscale.placement import check
from heteroscale.placement.inventory.entries import Unreadable
from heteroscale.placement.inventory.gang import Gang, Outcome, Verdict
from heteroscale.placement.inventory.protocol import Build
from heteroscale.placement.inventory.redis import RedisInventory, connect
from heteroscale.runtime.context import Context
from support import history
from support.gangs import Proposer, built, node
from support.own_redis import OwnRedis, Proxy
from support.placement_driver import command
from support.placement_stage import Stage, instances

pytestmark = [pytest.mark.redis, pytest.mark.skipif(not OwnRedis.possible(), reason="capability redis-server: none on PATH")]

AtEnd = list[Callable[[], Awaitable[None]]]
GPUS = {f"n{at}": 8 for at in range(9)}


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """A Redis of this test alone."""
    with OwnRedis(tmp_path) as server:
        yield server


def opened(port: int, at_end: AtEnd, timeout_ms: int = 500) -> RedisInventory:
    """An inventory on a local port."""
    inventory = RedisInventory(connect(f"redis://127.0.0.1:{port}/0", timeout_ms=timeout_ms), timeout_ms=timeout_ms)
    at_end.append(inventory.close)
    return inventory


async def sound(inventory: RedisInventory, answers: list[tuple[Gang, Outcome]]) -> None:
    """Invariants and history."""
    image = await inventory.read("default")
    assert image is not None
    assert [] == [one for one in check.inventory(image) if one.invariant != "ONCE"]  # these gangs command nothing
    assert [] == history.of_gangs(answers, GPUS)
    assert {name for gang, outcome in answers if outcome.verdict is Verdict.APPLIED for name in gang.puts} == set(image.instances)


async def until_ready(context: Context, *, ready: bool) -> None:
    """Wait until the service says so."""
    async with asyncio.timeout(10):
        while context.health.ready is not ready:
            await asyncio.sleep(0.01)


async def test_a_lost_reply_is_looked_up_and_never_taken_for_a_failure(own_redis: OwnRedis, at_end: AtEnd) -> None:
    """Every third answer is swallowed after the script ran: each gang is applied once, and its caller learns of it."""
    proxy = Proxy(own_redis.port)
    await proxy.start()
    at_end.append(proxy.close)
    inventory = opened(proxy.port, at_end)
    proposer = Proposer("default", await built(inventory, *(node(name) for name in GPUS)))
    answers: list[tuple[Gang, Outcome]] = []
    for number in range(30):
        proxy.lose_replies = 3 if number % 3 == 0 else 0
        gang = proposer.gang({f"i{number}": {f"n{number % 9}": 1}})
        (outcome,) = await inventory.apply([gang])
        answers.append((gang, outcome))
        assert Verdict.APPLIED == outcome.verdict
        proposer.seq += 1
    assert proxy.lost >= 10
    await sound(opened(own_redis.port, at_end), answers)


async def test_what_was_answered_survives_kill_9(own_redis: OwnRedis, at_end: AtEnd) -> None:
    """With appendfsync always, after each answered gang the server may die; it comes back with all of them.

    The new run of the server takes nothing under the old generation: a worker reads it and goes on under another one.
    """
    inventory = opened(own_redis.port, at_end)
    proposer = Proposer("default", await built(inventory, *(node(name) for name in GPUS)))
    answers: list[tuple[Gang, Outcome]] = []
    for number in range(12):
        gang = proposer.gang({f"i{number}": {f"n{number % 9}": 1}})
        if number % 4 == 3:
            sending = asyncio.create_task(inventory.apply([gang]))
            await asyncio.sleep(0.001)
            own_redis.kill()
            await asyncio.gather(sending, return_exceptions=True)  # it may have been answered in time
            with pytest.raises(Retryable):
                await inventory.apply([gang])
            own_redis.start()
        (outcome,) = await inventory.apply([gang])
        if outcome.verdict is Verdict.NOT_READY:
            assert "run" == outcome.detail
            await renewed(inventory, proposer)
            gang = proposer.gang({f"i{number}": {f"n{number % 9}": 1}})
            (outcome,) = await inventory.apply([gang])
        answers.append((gang, outcome))
        assert Verdict.APPLIED == outcome.verdict
        proposer.seq += 1
    await sound(inventory, answers)


async def renewed(inventory: RedisInventory, proposer: Proposer) -> None:
    """Everything as it stands under the next generation."""
    image = await inventory.read("default")
    assert image is not None
    assert image.restarted
    proposer.fence, proposer.gen = await inventory.take_fence("default"), image.gen + 1
    fresh = msgspec.structs.replace(image, gen=proposer.gen)
    await inventory.build(Build(fleet="default", fence=proposer.fence, old_gen=image.gen, image=fresh))


@pytest.mark.parametrize("worker", ["restarted", "alive"])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.6, 1.0])
async def test_a_server_that_forgot_its_end_is_rebuilt_from_the_log(
    own_redis: OwnRedis, memory_log: Log, at_end: AtEnd, share: float, worker: str
) -> None:
    """The append-only file loses its end (or all of it): the log has seen more, so the inventory is rebuilt and nothing moves.

    The same for a worker that starts anew and for one that lives on with its own idea of the inventory.
    """
    inventory = opened(own_redis.port, at_end)
    stage = Stage(memory_log, "heteroscale")
    at_end.append(stage.close)
    await stage.build(*(node(name) for name in GPUS))
    empty = own_redis.log_size
    stage.start(inventory)
    placed = await stage.answer(command())
    await stage.acknowledge(placed, ActuationKind.READY)
    before = await stage.until(lambda one: one.status is PlacementStatus.CONVERGED)
    await stage.answer(command(service="other", after_ms=1))
    if worker == "restarted":
        await stage.stop()
    own_redis.kill()
    own_redis.cut_short(int((own_redis.log_size - empty) * share))
    own_redis.start()
    if worker == "restarted":
        stage.start(inventory)
    again = await stage.answer(command(after_ms=60_000))
    assert before.groups == again.groups
    third = await stage.answer(command(service="third", after_ms=60_001))
    assert (PlacementStatus.PROGRESSING, 3) == (third.status, len(instances(third)))
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)


async def test_a_server_that_is_away_holds_the_service_and_loses_nothing(own_redis: OwnRedis, memory_log: Log, at_end: AtEnd) -> None:
    """Commands sent meanwhile are placed when it is back; the service says what it waits for, and is not ready."""
    inventory = opened(own_redis.port, at_end)
    stage = Stage(memory_log, "heteroscale")
    at_end.append(stage.close)
    await stage.build(*(node(name) for name in GPUS))
    context = stage.start(inventory)
    await stage.answer(command())
    await until_ready(context, ready=True)
    own_redis.kill()
    await stage.send(command(after_ms=1), command(service="other", after_ms=2))
    await until_ready(context, ready=False)
    assert "redis" in context.health.report()["placement"]
    own_redis.start()
    other = await stage.until(lambda one: one.service == "other")
    assert (PlacementStatus.PROGRESSING, 3) == (other.status, len(instances(other)))
    await until_ready(context, ready=True)
    await stage.stop()
    assert [] == await stage.judged(inventory, GPUS)


async def test_an_idle_service_tells_that_its_server_is_away(own_redis: OwnRedis, memory_log: Log, at_end: AtEnd) -> None:
    """Not ready within seconds although nothing is asked of it, with what is awaited; ready again when the server is back."""
    stage = Stage(memory_log, "heteroscale")
    at_end.append(stage.close)
    await stage.build()
    context = stage.start(opened(own_redis.port, at_end))
    await until_ready(context, ready=False)
    await until_ready(context, ready=True)
    own_redis.kill()
    await until_ready(context, ready=False)
    assert "redis: ping" in context.health.report()["placement"]
    own_redis.start()
    await until_ready(context, ready=True)
    await stage.stop()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--appendonly", "yes"), []),
        (("--appendonly", "no"), ["appendonly is no"]),
        (
            ("--appendfsync", "everysec", "--maxmemory-policy", "allkeys-lru"),
            ["appendfsync is everysec", "maxmemory-policy is allkeys-lru"],
        ),
        (("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-config"), ["CONFIG GET is refused"]),
    ],
    ids=["as it should be", "nothing on disk", "weak", "config hidden"],
)
async def test_a_weak_configuration_is_named(tmp_path: Path, at_end: AtEnd, options: tuple[str, ...], named: list[str]) -> None:
    """Start-up says which setting weakens what, and what to set."""
    with OwnRedis(tmp_path, *options) as server:
        found = await opened(server.port, at_end).warnings()
    assert named == [line.split(": ")[1].split(",")[0] for line in found]


async def test_a_wrong_password_is_no_matter_of_configuration(tmp_path: Path, at_end: AtEnd) -> None:
    """It is an error that names what was tried, not a warning, and no use to try again."""
    with OwnRedis(tmp_path) as server:
        inventory = RedisInventory(connect(f"redis://nobody:wrong@127.0.0.1:{server.port}/0", timeout_ms=500), timeout_ms=500)
        at_end.append(inventory.close)
        with pytest.raises(Broken, match="read the configuration: invalid username-password"):
            await inventory.warnings()


@pytest.mark.parametrize(
    ("key", "field", "text", "said"),
    [
        ("node", "n0", "rubbish", "node n0 reads 'rubbish', not free|state|revision"),
        ("node", "n0", "8|dancing|0", "node n0 reads '8|dancing|0'"),
        ("used", "n0", "q", "used of node n0 reads 'q', not a whole number"),
        ("meta", "gen", "x", "gen of meta reads 'x', not a whole number"),
        ("meta", "rev", "", "rev of meta reads '', not a whole number"),
        ("fleet", "n0", "zzz", "n0 is no NodeRecord"),
        ("inst", "i0", "{", "i0 is no InstanceEntry"),
        ("svc", "chat", "[]", "chat is no ServiceEntry"),
        ("node", None, "", "WRONGTYPE"),
        ("meta", None, "", "WRONGTYPE"),
    ],
)
async def test_what_cannot_be_read_is_named_with_its_cure(
    own_redis: OwnRedis, at_end: AtEnd, key: str, field: str | None, text: str, said: str
) -> None:
    """Whatever stands in the keys, the message says where and what to do; what it says to do works."""
    inventory = opened(own_redis.port, at_end)
    await built(inventory, *(node(name) for name in GPUS))
    name = getattr(inventory.keys("default"), key)
    client: Any = inventory._client
    if field is None:
        await client.set(name, "a string")
    else:
        await client.hset(name, field, text)
    with pytest.raises(Unreadable) as caught:
        await inventory.read("default")
    assert said in str(caught.value)
    assert "delete the key {hs:default}:meta" in str(caught.value)
    await client.delete("{hs:default}:meta")
    assert await inventory.read("default") is None
    await built(inventory, *(node(name) for name in GPUS))
    assert await inventory.read("default") is not None


async def test_a_server_out_of_memory_is_awaited_not_given_up(tmp_path: Path, at_end: AtEnd) -> None:
    """It refuses writes until somebody makes room: to be tried again, not the end of the process."""
    with OwnRedis(tmp_path, "--maxmemory", "1kb") as full:
        inventory = opened(full.port, at_end)
        with pytest.raises(Retryable, match="maxmemory"):
            await inventory.take_fence("default")


async def test_a_server_that_starts_anew_between_loading_a_script_and_running_it_is_awaited(own_redis: OwnRedis, at_end: AtEnd) -> None:
    """It does not know the script again: to be tried again, not the end of the process."""
    inventory = opened(own_redis.port, at_end)
    client: Any = inventory._client
    load = client.script_load

    async def forgotten(text: str) -> None:
        await load(text)
        await client.script_flush()

    client.script_load = forgotten
    with pytest.raises(Retryable, match="No matching script"):
        await inventory.read("default")
    client.script_load = load
    assert await inventory.read("default") is None
