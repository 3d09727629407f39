"""What only the log in memory has: bounded retention, no waiting where there is something to read, determinism."""

from __future__ import annotations

import asyncio

from heteroscale.bus.log import Entry, TopicLayout, TopicPartition
from heteroscale.bus.memory import MemoryLog


async def test_retention_keeps_the_newest_but_spares_compacted_topics() -> None:
    """Offsets go on as if nothing had been dropped; a reader behind the beginning goes on at it."""
    log = MemoryLog(retain=3)
    await log.create_topics([TopicLayout("flow", 1, {}), TopicLayout("state", 1, {"cleanup.policy": "compact"})])
    for n in range(10):
        await log.append([Entry(topic, b"k", str(n).encode(), n) for topic in ("flow", "state")])
    flow, state = TopicPartition("flow", 0), TopicPartition("state", 0)
    assert {flow: 7, state: 0} == await log.begin_offsets([flow, state])
    assert {flow: 10, state: 10} == await log.end_offsets([flow, state])
    assert {flow: 8} == await log.offsets_for_time({flow: 8})
    reader = log.reader({flow: 0})
    assert [7, 8, 9] == [record.offset for record in await reader.poll(timeout_ms=0)]
    assert {flow: 10} == reader.positions()


async def test_a_poll_with_something_to_read_does_not_wait() -> None:
    """A thousand steps of append and poll take no timer, so a simulated day is as fast as the machine."""
    log = MemoryLog()
    await log.create_topics([TopicLayout("t", 12, {})])
    reader = log.reader({TopicPartition("t", partition): 0 for partition in range(12)})
    loop = asyncio.get_running_loop()
    began = loop.time()
    for n in range(1_000):
        await log.append([Entry("t", str(n).encode(), b"v", n)])
        assert 1 == len(await reader.poll(timeout_ms=60_000))
    assert loop.time() - began < 5


async def test_busy_partitions_take_turns() -> None:
    """With small batches every partition is read before one is read twice."""
    log = MemoryLog()
    await log.create_topics([TopicLayout("t", 3, {})])
    await log.append([Entry("t", None, b"v", 0, partition) for partition in range(3) for _ in range(10)])
    reader = log.reader({TopicPartition("t", partition): 0 for partition in range(3)})
    first = [(await reader.poll(timeout_ms=0, records_max=1))[0].partition for _ in range(3)]
    assert [0, 1, 2] == sorted(first)


async def test_the_same_program_reads_the_same_records() -> None:
    """Three members, interleaved polls and a leaver: two runs see equal sequences (SAME-IN-SAME-OUT)."""

    async def run() -> list[tuple[str, int, int]]:
        log = MemoryLog()
        await log.create_topics([TopicLayout("t", 6, {})])
        seen: list[tuple[str, int, int]] = []
        members = {name: await log.join("g", ["t"]) for name in ("a", "b", "c")}
        for n in range(60):
            await log.append([Entry("t", f"k{n % 7}".encode(), b"v", n)])
            if n == 30:
                await members.pop("b").close()
            for name, member in members.items():
                records = await member.poll(timeout_ms=0)
                seen += [(name, record.partition, record.offset) for record in records]
                await member.commit(member.positions())
        return seen

    once = await run()
    assert once == await run()
    assert 60 == len({(partition, offset) for _, partition, offset in once})


async def test_a_latecomer_disturbs_nobody() -> None:
    """A member that let the deadline pass takes up what it was dealt; the others keep what they have."""
    log = MemoryLog(rebalance_deadline_ms=20)
    await log.create_topics([TopicLayout("t", 2, {})])
    told: list[str] = []

    async def revoked(_partitions: frozenset[TopicPartition]) -> None:
        told.append("second")

    sleeper = await log.join("g", ["t"])
    await sleeper.poll(timeout_ms=0)
    second = await log.join("g", ["t"], on_revoked=revoked)
    await second.poll(timeout_ms=0)
    await asyncio.sleep(0.1)
    await second.poll(timeout_ms=0)
    held = second.assignment()
    assert 1 == len(held)
    await sleeper.poll(timeout_ms=0)
    await second.poll(timeout_ms=0)
    assert (held, []) == (second.assignment(), told)
    assert frozenset() == held & sleeper.assignment()
