"""Every check of the script is there for a reason: without it, on a real Redis, the harm is done. With it, it is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from heteroscale.contracts.names import DecisionId
from heteroscale.placement import check
from heteroscale.placement.inventory import scripts
from heteroscale.placement.inventory.gang import Verdict
from heteroscale.placement.inventory.protocol import Build
from heteroscale.placement.inventory.redis import RedisInventory, connect
from support.gangs import Proposer, built, image, node

pytestmark = pytest.mark.redis

Harmed = Callable[[RedisInventory, int], Awaitable[bool]]
WHOLE = scripts.source(scripts.APPLY)
AFTER_A_CHECK = ("-- check:", "-- end of checks", "-- write", "local refusal", "local known", "local counted")


def without(name: str) -> str:
    """apply.lua without one of its checks."""
    lines = WHOLE.splitlines(keepends=True)
    start = next(at for at, line in enumerate(lines) if line.lstrip().startswith(f"-- check: {name}"))
    end = next(at for at in range(start + 1, len(lines)) if lines[at].lstrip().startswith(AFTER_A_CHECK))
    return "".join(lines[:start] + lines[end:])


def writing_first() -> str:
    """apply.lua that writes each node before it has looked at the next one."""
    there = "  found.free = found.free - gpus\nend\nfor _, at in ipairs(adopts)"
    assert 1 == WHOLE.count(there)
    early = "  redis.call('HSET', nodes, ARGV[at], string.format('%d|%s|%s', found.free - gpus, found.state, found.revision))\n"
    return WHOLE.replace(there, early + there)


async def gang_seen(inventory: RedisInventory, fence: int) -> bool:
    """A script that ran twice answers twice the same."""
    gang = Proposer("default", fence).gang({"i1": {"n1": 8}})
    return await inventory.apply([gang]) != await inventory.apply([gang])


async def generation(inventory: RedisInventory, fence: int) -> bool:
    """A plan on an inventory that was rebuilt since takes nothing."""
    await inventory.build(Build(fleet="default", fence=fence, old_gen=1, image=image(node("n1"), gen=2)))
    (outcome,) = await inventory.apply([Proposer("default", fence, gen=1).gang({"i1": {"n1": 8}})])
    return outcome.verdict is Verdict.APPLIED


async def server_run(inventory: RedisInventory, fence: int) -> bool:
    """A plan made before the server started anew takes nothing: the server may have forgotten what the plan stands on."""
    await inventory._client.hset(inventory.keys("default").meta, "run", "0" * 40)
    (outcome,) = await inventory.apply([Proposer("default", fence).gang({"i1": {"n1": 8}})])
    return outcome.verdict is Verdict.APPLIED


async def fence(inventory: RedisInventory, fence: int) -> bool:
    """A worker that was replaced while it slept takes nothing."""
    await inventory.take_fence("default")
    (outcome,) = await inventory.apply([Proposer("default", fence).gang({"i1": {"n1": 8}})])
    return outcome.verdict is Verdict.APPLIED


async def command_order(inventory: RedisInventory, fence: int) -> bool:
    """A command that was overtaken changes nothing, however late it comes."""
    proposer = Proposer("default", fence)
    newer = msgspec.structs.replace(proposer.command, revision=2, id=DecisionId("n" * 16))
    await inventory.apply([proposer.gang(command=newer)])
    proposer.seq = 1
    (outcome,) = await inventory.apply([proposer.gang({"i1": {"n1": 8}})])
    return outcome.verdict is Verdict.APPLIED


async def sequence(inventory: RedisInventory, fence: int) -> bool:
    """ONCE: two workers that read the same state do not both place the same command."""
    one, other = Proposer("default", fence), Proposer("default", fence)
    outcomes = await inventory.apply([one.gang({"i1": {"n1": 8}}), other.gang({"i2": {"n2": 8}})])
    return [Verdict.APPLIED, Verdict.APPLIED] == [outcome.verdict for outcome in outcomes]


async def nodes(inventory: RedisInventory, fence: int) -> bool:
    """NO-OVERLAP: two services do not both get the last GPUs."""
    await inventory.apply([Proposer("default", fence, service=name).gang({f"{name}1": {"n1": 8}}) for name in ("a", "b")])
    found = await inventory.read("default")
    assert found is not None
    return "NO-OVERLAP" in {violation.invariant for violation in check.inventory(found)}


async def births(inventory: RedisInventory, fence: int) -> bool:
    """NO-LEAK: an instance does not come twice under one name."""
    await inventory.apply([Proposer("default", fence, service=name).gang({"i1": {node: 8}}) for name, node in (("a", "n1"), ("b", "n2"))])
    found = await inventory.read("default")
    assert found is not None
    return "NO-LEAK" in {violation.invariant for violation in check.inventory(found)}


async def half_a_gang(inventory: RedisInventory, fence: int) -> bool:
    """PAIR: a refused gang leaves nothing behind."""
    await inventory.apply([Proposer("default", fence).gang({"i1": {"n1": 8}, "i2": {"n9": 8}})])
    found = await inventory.read("default")
    assert found is not None
    return "NO-LEAK" in {violation.invariant for violation in check.inventory(found)}


@pytest.mark.parametrize(
    ("mutant", "harmed"),
    [
        pytest.param(without("gang seen"), gang_seen, id="gang-id"),
        pytest.param(without("generation"), generation, id="generation"),
        pytest.param(without("server run"), server_run, id="server-run"),
        pytest.param(without("fence"), fence, id="fence"),
        pytest.param(without("command order"), command_order, id="command-order"),
        pytest.param(without("sequence"), sequence, id="sequence"),
        pytest.param(WHOLE.replace("or found.free < gpus then", "then"), nodes, id="free-gpus"),
        pytest.param(without("births"), births, id="births"),
        pytest.param(writing_first(), half_a_gang, id="write-before-validate"),
    ],
)
async def test_without_the_check_the_harm_is_done(mutant: str, harmed: Harmed, redis_url: str, prefix: str) -> None:
    """The mutated script does the harm that the real one prevents."""
    assert mutant != WHOLE
    client = connect(redis_url, timeout_ms=2_000)
    for number, (source, expected) in enumerate(((WHOLE, False), (mutant, True))):
        inventory = RedisInventory(client, prefix=f"{prefix}-{number}", sources={scripts.APPLY: source})
        fence = await built(inventory, node("n1"), node("n2"))
        assert expected is await harmed(inventory, fence)
        await client.delete(*inventory.keys("default"))
    await client.aclose()
