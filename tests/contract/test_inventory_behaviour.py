"""What an inventory must do, asked of the one in memory and of real Redis alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from heteroscale.contracts.fleet import NodeState
from heteroscale.contracts.names import DecisionId
from heteroscale.placement import check
from heteroscale.placement.inventory.entries import FleetImage, InstanceEntry, Standing
from heteroscale.placement.inventory.gang import Gang, Outcome, Verdict
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Build, Inventory, NodeSync
from heteroscale.placement.inventory.redis import RedisInventory, connect
from support.gangs import Proposer, built, image, node, node_entry

AtEnd = list[Callable[[], Awaitable[None]]]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def inventory(request: pytest.FixtureRequest, prefix: str, at_end: AtEnd) -> Inventory:
    """Each kind of inventory in turn; keys under the test's own prefix, removed afterwards."""
    if request.param == "memory":
        return MemoryInventory()
    client = connect(request.getfixturevalue("redis_url"), timeout_ms=2_000)
    found = RedisInventory(client, prefix=prefix, timeout_ms=2_000)

    async def wipe() -> None:
        await client.delete(*found.keys("default"))
        await found.close()

    at_end.append(wipe)
    return found


async def read(inventory: Inventory) -> FleetImage:
    """The image of the test's fleet, which must hold all invariants."""
    found = await inventory.read("default")
    assert found is not None
    assert [] == check.inventory(found)
    return found


async def one(inventory: Inventory, gang: Gang) -> Outcome:
    """Apply one gang."""
    (outcome,) = await inventory.apply([gang])
    return outcome


async def free(inventory: Inventory) -> dict[str, int]:
    """Free GPUs per node."""
    return {name: entry.free for name, entry in (await read(inventory)).nodes.items()}


async def test_the_stamp_is_what_a_whole_read_says(inventory: Inventory) -> None:
    """Null before the build; then generation and revision, after every write."""
    assert await inventory.stamp("default") is None
    proposer = Proposer("default", await built(inventory, node("n1")))
    before = await inventory.stamp("default")
    await one(inventory, proposer.gang({"i1": {"n1": 8}}))
    after = await inventory.stamp("default")
    image = await read(inventory)
    assert before is not None
    assert (image.gen, image.rev) == after
    assert before < (image.gen, image.rev)


async def test_a_fleet_that_was_never_built_reads_as_null(inventory: Inventory) -> None:
    """Reading before the first build says so, and a gang is NOT_READY."""
    assert await inventory.read("default") is None
    assert Verdict.NOT_READY == (await one(inventory, Proposer("default", 1).gang({"i1": {"n1": 8}}))).verdict


async def test_a_gang_is_written_whole(inventory: Inventory) -> None:
    """Instances, GPUs, the service's state, seq, rev and the Placement change together."""
    fence = await built(inventory, node("n1"), node("n2"))
    proposer = Proposer("default", fence)
    gang = proposer.gang({"i1": {"n1": 8}, "i2": {"n2": 4}})
    before = await read(inventory)
    outcome = await one(inventory, gang)
    after = await read(inventory)
    assert Verdict.APPLIED == outcome.verdict
    assert before.rev + 1 == after.rev == outcome.rev
    assert {"n1": 0, "n2": 4} == {name: entry.free for name, entry in after.nodes.items()}
    assert {"i1", "i2"} == set(after.instances)
    assert gang.puts == after.instances
    assert {"chat": gang.state} == after.services
    assert [(outcome.entry, "chat", gang.payload)] == [tuple(entry) for entry in await inventory.outbox("default")]
    assert gang.at_ms == after.now_ms


async def test_the_same_gang_again_gets_its_first_answer(inventory: Inventory) -> None:
    """ONCE: a script that runs twice changes nothing the second time, even after other gangs."""
    proposer = Proposer("default", await built(inventory, node("n1"), node("n2")))
    gang = proposer.gang({"i1": {"n1": 8}})
    first = await one(inventory, gang)
    proposer.seq = 1
    assert Verdict.APPLIED == (await one(inventory, proposer.gang({"i2": {"n2": 8}}))).verdict
    assert first == await one(inventory, gang)
    assert {"n1": 0, "n2": 0} == await free(inventory)
    assert 2 == len(await inventory.outbox("default"))


async def test_a_plan_on_an_older_sequence_is_refused(inventory: Inventory) -> None:
    """Two plans made from one read: one is applied, the other is a CONFLICT without a node, and changes nothing."""
    fence = await built(inventory, node("n1"), node("n2"))
    assert Verdict.APPLIED == (await one(inventory, Proposer("default", fence).gang({"i1": {"n1": 8}}))).verdict
    outcome = await one(inventory, Proposer("default", fence).gang({"i2": {"n2": 8}}))
    assert (Verdict.CONFLICT, None) == (outcome.verdict, outcome.node)
    assert {"n1": 0, "n2": 8} == await free(inventory)


async def test_a_lower_fence_is_refused(inventory: Inventory) -> None:
    """A worker that slept through a take-over can do nothing."""
    fence = await built(inventory, node("n1"))
    assert fence < await inventory.take_fence("default")
    outcome = await one(inventory, Proposer("default", fence).gang({"i1": {"n1": 8}}))
    assert (Verdict.STALE, "fence") == (outcome.verdict, outcome.detail)
    assert {"n1": 8} == await free(inventory)


async def test_another_generation_is_refused(inventory: Inventory) -> None:
    """A plan on an inventory that was rebuilt since is NOT_READY."""
    fence = await built(inventory, node("n1"))
    assert Verdict.NOT_READY == (await one(inventory, Proposer("default", fence, gen=2).gang({"i1": {"n1": 8}}))).verdict


@pytest.mark.parametrize(
    ("revision", "at_ms", "identity", "verdict"),
    [
        (1, 200, "b", Verdict.STALE),
        (2, 99, "b", Verdict.STALE),
        (2, 100, "a", Verdict.STALE),
        (2, 100, "b", Verdict.APPLIED),
        (2, 100, "c", Verdict.APPLIED),
        (2, 101, "a", Verdict.APPLIED),
        (3, 1, "a", Verdict.APPLIED),
    ],
)
async def test_an_older_command_is_refused(inventory: Inventory, revision: int, at_ms: int, identity: str, verdict: Verdict) -> None:
    """Revision decides, then at_ms, then the id; equal is not older."""
    proposer = Proposer("default", await built(inventory, node("n1")))
    newest = msgspec.structs.replace(proposer.command, revision=2, at_ms=100, id=DecisionId("b"))
    assert Verdict.APPLIED == (await one(inventory, proposer.gang(command=newest))).verdict
    proposer.seq = 1
    other = msgspec.structs.replace(newest, revision=revision, at_ms=at_ms, id=DecisionId(identity))
    assert verdict == (await one(inventory, proposer.gang({"i1": {"n1": 1}}, command=other))).verdict


@pytest.mark.parametrize("state", [NodeState.CORDONED, NodeState.LOST])
async def test_a_node_that_is_not_ready_gives_nothing(inventory: Inventory, state: NodeState) -> None:
    """The conflict names the node, and the rest of the gang is not written either (PAIR)."""
    proposer = Proposer("default", await built(inventory, node("n1"), node("n2", state=state)))
    outcome = await one(inventory, proposer.gang({"i1": {"n1": 8}, "i2": {"n2": 8}}))
    assert (Verdict.CONFLICT, "n2") == (outcome.verdict, outcome.node)
    assert {"n1": 8, "n2": 8} == await free(inventory)
    assert {} == (await read(inventory)).instances


async def test_an_unknown_or_full_node_is_named(inventory: Inventory) -> None:
    """NO-OVERLAP: no node gives more than it has, nor one that is not there."""
    proposer = Proposer("default", await built(inventory, node("n1", used=4)))
    assert Outcome(verdict=Verdict.CONFLICT, node="n9") == await one(inventory, proposer.gang({"i1": {"n9": 1}}))
    assert Outcome(verdict=Verdict.CONFLICT, node="n1") == await one(inventory, proposer.gang({"i1": {"n1": 3}, "i2": {"n1": 2}}))
    assert {"n1": 4} == await free(inventory)


async def test_freeing_is_never_refused_for_a_node(inventory: Inventory) -> None:
    """GPUs come back on a node that is cordoned, lost or gone."""
    fence = await built(inventory, node("n1"), node("n2"))
    proposer = Proposer("default", fence)
    gang = proposer.gang({"i1": {"n1": 8}, "i2": {"n2": 2}})
    assert Verdict.APPLIED == (await one(inventory, gang)).verdict
    now = await read(inventory)
    lost = msgspec.structs.replace(now.nodes["n1"], standing=Standing.LOST)
    sync = NodeSync(fleet="default", gen=1, fence=fence, rev=now.rev, nodes={"n1": lost}, gone=())
    assert Verdict.APPLIED == (await inventory.sync(sync)).verdict
    proposer.seq = 1
    drops: list[tuple[str, InstanceEntry]] = [("i1", gang.puts["i1"]), ("i2", gang.puts["i2"])]
    assert Verdict.APPLIED == (await one(inventory, proposer.gang(drops=drops))).verdict
    assert {"n1": 8, "n2": 8} == await free(inventory)


async def test_what_a_gang_frees_it_cannot_take(inventory: Inventory) -> None:
    """What a victim frees is not available in the same script."""
    proposer = Proposer("default", await built(inventory, node("n1")))
    first = proposer.gang({"i1": {"n1": 8}})
    await one(inventory, first)
    proposer.seq = 1
    outcome = await one(inventory, proposer.gang({"i2": {"n1": 8}}, [("i1", first.puts["i1"])]))
    assert (Verdict.CONFLICT, "n1") == (outcome.verdict, outcome.node)


async def test_an_instance_is_born_once(inventory: Inventory) -> None:
    """A birth under a name that is taken, by whatever service, is a conflict."""
    fence = await built(inventory, node("n1"), node("n2"))
    await one(inventory, Proposer("default", fence).gang({"i1": {"n1": 8}}))
    outcome = await one(inventory, Proposer("default", fence, service="other").gang({"i1": {"n2": 8}}))
    assert (Verdict.CONFLICT, None) == (outcome.verdict, outcome.node)


async def test_adoption_takes_from_used_first(inventory: Inventory) -> None:
    """Adopted GPUs leave `used`, then `free`; more than both is a conflict. All accounts still add up."""
    proposer = Proposer("default", await built(inventory, node("n1", used=4)))
    assert Verdict.APPLIED == (await one(inventory, proposer.gang(adopts={"i1": {"n1": 3}}))).verdict
    proposer.seq = 1
    assert Verdict.APPLIED == (await one(inventory, proposer.gang(adopts={"i2": {"n1": 2}}))).verdict
    found = (await read(inventory)).nodes["n1"]
    assert (3, 0) == (found.free, found.used)
    proposer.seq = 2
    outcome = await one(inventory, proposer.gang(adopts={"i3": {"n1": 4}}))
    assert (Verdict.CONFLICT, "n1") == (outcome.verdict, outcome.node)


async def test_many_at_once_never_overlap(inventory: Inventory) -> None:
    """NO-OVERLAP: forty services after ten nodes, all at once: exactly ten get one."""
    fence = await built(inventory, *(node(f"n{n}") for n in range(10)))
    gangs = [Proposer("default", fence, service=f"s{n}").gang({f"i{n}": {f"n{n % 10}": 8}}) for n in range(40)]
    batches = await asyncio.gather(*(inventory.apply(gangs[start : start + 10]) for start in range(0, 40, 10)))
    verdicts = [outcome.verdict for batch in batches for outcome in batch]
    assert 10 == verdicts.count(Verdict.APPLIED)
    assert 30 == verdicts.count(Verdict.CONFLICT)
    assert dict.fromkeys((f"n{n}" for n in range(10)), 0) == await free(inventory)


async def test_the_out_stream_keeps_order_until_acknowledged(inventory: Inventory) -> None:
    """Entries come oldest first, and only acknowledged ones leave."""
    proposer = Proposer("default", await built(inventory, node("n1")))
    for seq in range(5):
        proposer.seq = seq
        await one(inventory, proposer.gang({f"i{seq}": {"n1": 1}}))
    entries = await inventory.outbox("default", 3)
    assert 3 == len(entries)
    await inventory.acknowledge("default", [entry.entry for entry in entries])
    rest = await inventory.outbox("default")
    assert 2 == len(rest)
    assert [entries[0].payload, rest[-1].payload] == sorted([entries[0].payload, rest[-1].payload])


async def test_a_node_sync_needs_the_state_that_was_read(inventory: Inventory) -> None:
    """Nodes are written on the rev that was read, by the newest fence, and on no other."""
    fence = await built(inventory, node("n1"))
    now = await read(inventory)
    fresh = node_entry(node("n2"), 7)
    sync = NodeSync(fleet="default", gen=1, fence=fence, rev=now.rev, nodes={"n2": fresh}, gone=("n1",))
    assert Verdict.CONFLICT == (await inventory.sync(msgspec.structs.replace(sync, rev=now.rev + 1))).verdict
    assert Verdict.NOT_READY == (await inventory.sync(msgspec.structs.replace(sync, gen=2))).verdict
    assert Verdict.APPLIED == (await inventory.sync(sync)).verdict
    assert {"n2": fresh} == (await read(inventory)).nodes
    await inventory.take_fence("default")
    later = msgspec.structs.replace(sync, rev=now.rev + 1)
    assert Verdict.STALE == (await inventory.sync(later)).verdict


async def test_a_build_needs_the_newest_fence_and_the_old_generation(inventory: Inventory) -> None:
    """Of two workers that rebuild, one wins; what was there before is gone, what is to be published is in `out`."""
    proposer = Proposer("default", await built(inventory, node("n1")))
    await one(inventory, proposer.gang({"i1": {"n1": 8}}))
    older = await inventory.take_fence("default")
    newer = await inventory.take_fence("default")
    fresh = Build(fleet="default", fence=older, old_gen=1, image=image(node("n5"), gen=2), placements=[("chat", b"{}")])
    assert Verdict.NOT_READY == (await inventory.build(fresh)).verdict
    mine = msgspec.structs.replace(fresh, fence=newer)
    assert Verdict.NOT_READY == (await inventory.build(msgspec.structs.replace(mine, old_gen=None))).verdict
    assert Verdict.APPLIED == (await inventory.build(mine)).verdict
    assert Verdict.NOT_READY == (await inventory.build(mine)).verdict
    now = await read(inventory)
    assert (2, ["n5"], {}) == (now.gen, list(now.nodes), now.instances)
    assert [("chat", b"{}")] == [(entry.service, entry.payload) for entry in await inventory.outbox("default")]


async def test_answers_are_kept_for_the_last_thousand_gangs(inventory: Inventory) -> None:
    """The memory of applied gangs does not grow without bound; the newest thousand of a service are remembered."""
    proposer = Proposer("default", await built(inventory, node("n1")))
    gangs = []
    for seq in range(1_003):
        proposer.seq = seq
        gangs.append(proposer.gang())
    outcomes = await inventory.apply(gangs)
    assert {Verdict.APPLIED} == {outcome.verdict for outcome in outcomes}
    assert outcomes[3:6] == await inventory.apply(gangs[3:6])
    assert Verdict.CONFLICT == (await one(inventory, gangs[0])).verdict


async def test_the_lease_names_its_holder(inventory: Inventory) -> None:
    """The first to ask holds it; another is told who."""
    assert "a" == await inventory.lease("default", "a", 10_000)
    assert "a" == await inventory.lease("default", "b", 10_000)


async def test_another_workers_proposal_is_never_given_this_ones_answer(inventory: Inventory) -> None:
    """Same service, seq, command and instance name, other nodes: another gang, so nothing unapplied is published."""
    fence = await built(inventory, node("n1"), node("n2"))
    assert Verdict.APPLIED == (await one(inventory, Proposer("default", fence).gang({"i1": {"n1": 8}}))).verdict
    newer = await inventory.take_fence("default")
    assert Verdict.CONFLICT == (await one(inventory, Proposer("default", newer).gang({"i1": {"n2": 8}}))).verdict
