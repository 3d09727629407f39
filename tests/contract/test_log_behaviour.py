"""What a Log must do, asked of the one in memory and of real Kafka alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from heteroscale.bus import scan
from heteroscale.bus.log import Entry, Log, Member, Reader, Record, TopicLayout, TopicPartition
from heteroscale.contracts.errors import Broken, Rejected, Stale

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
FREE_STAMPS = {"message.timestamp.before.max.ms": str(2**63 - 1), "message.timestamp.after.max.ms": str(2**63 - 1), "retention.ms": "-1"}
POLL_MS = 10_000
QUIET_MS = 300


async def make(log: Log, prefix: str, **partitions: int) -> list[str]:
    """Topics under the test's prefix; their full names."""
    names = [f"{prefix}.{name}" for name in partitions]
    await log.create_topics(TopicLayout(f"{prefix}.{name}", count, FREE_STAMPS) for name, count in partitions.items())
    return names


def entry(topic: str, key: str | None, value: str | None, at_ms: int = NOW_MS, partition: int | None = None) -> Entry:
    """An entry from texts."""
    return Entry(topic, None if key is None else key.encode(), None if value is None else value.encode(), at_ms, partition)


async def collect(reader: Reader, count: int) -> list[Record]:
    """Exactly the next `count` records, within a limit."""
    records: list[Record] = []
    async with asyncio.timeout(POLL_MS / 1_000):
        while len(records) < count:
            records += await reader.poll(timeout_ms=POLL_MS)
    assert count == len(records)
    return records


async def until_assigned(*members: Member, count: int) -> list[Record]:
    """Poll all members in turn until they hold `count` partitions together, none of them nothing; what they read meanwhile."""
    records: list[Record] = []
    async with asyncio.timeout(30):
        while sum(len(member.assignment()) for member in members) != count or not all(member.assignment() for member in members):
            for batch in await asyncio.gather(*(member.poll(timeout_ms=100) for member in members)):
                records += batch
    return records


def values(records: list[Record]) -> list[str]:
    """Values as texts."""
    return [(record.value or b"").decode() for record in records]


async def test_one_partition_keeps_the_order_of_appends(log: Log, prefix: str) -> None:
    """Records of one partition come back in the order of all appends, with consecutive offsets, keys and timestamps as given."""
    (topic,) = await make(log, prefix, order=1)
    offsets = await log.append([entry(topic, f"k{n}", f"v{n}", NOW_MS + n) for n in range(50)])
    offsets += await log.append([entry(topic, f"k{n}", f"v{n}", NOW_MS + n) for n in range(50, 60)])
    assert list(range(60)) == offsets
    reader = log.reader({TopicPartition(topic, 0): 0})
    records = await collect(reader, 60)
    assert [(n, f"k{n}".encode(), f"v{n}".encode(), NOW_MS + n) for n in range(60)] == [
        (record.offset, record.key, record.value, record.timestamp_ms) for record in records
    ]
    assert {TopicPartition(topic, 0): 60} == reader.positions()
    await reader.close()


async def test_a_key_goes_to_the_partition_that_java_computes(log: Log, prefix: str) -> None:
    """murmur2(key) mod count, as Kafka's Java clients have it (known values of 21, foobar and two longer keys)."""
    (topic,) = await make(log, prefix, keys=12)
    known = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829}
    await log.append([entry(topic, key, key) for key in known])
    reader = log.reader({TopicPartition(topic, partition): 0 for partition in range(12)})
    found = {(record.key or b"").decode(): record.partition for record in await collect(reader, len(known))}
    assert {key: (value & 0x7FFFFFFF) % 12 for key, value in known.items()} == found
    await reader.close()


async def test_a_record_without_a_key_goes_where_it_is_told(log: Log, prefix: str) -> None:
    """A null key needs a partition; with one it is taken, in order with the rest of the batch."""
    (topic,) = await make(log, prefix, ticks=3)
    with pytest.raises(Broken, match="needs a partition"):
        await log.append([entry(topic, None, "tick")])
    assert [0, 0, 1] == await log.append([entry(topic, None, str(p), partition=p) for p in (0, 2, 2)])
    with pytest.raises(Broken, match="partitions 0 to 2"):
        await log.append([entry(topic, None, "tick", partition=3)])


async def test_any_timestamp_is_kept(log: Log, prefix: str) -> None:
    """Stamps from 400 days ago to ten days ahead are taken as they are: replays and simulations live in other times."""
    (topic,) = await make(log, prefix, stamps=1)
    stamps = [0, NOW_MS - 400 * DAY_MS, NOW_MS, NOW_MS * 2, NOW_MS + 10 * DAY_MS]
    await log.append([entry(topic, "k", "v", at_ms) for at_ms in stamps])
    reader = log.reader({TopicPartition(topic, 0): 0})
    assert stamps == [record.timestamp_ms for record in await collect(reader, 5)]
    await reader.close()


async def test_a_tombstone_is_a_record_without_a_value(log: Log, prefix: str) -> None:
    """A null value travels as null; a record with neither key nor value is a mistake."""
    (topic,) = await make(log, prefix, tombs=1)
    await log.append([entry(topic, "a", "1"), entry(topic, "b", "1"), entry(topic, "a", None)])
    reader = log.reader({TopicPartition(topic, 0): 0})
    assert [b"1", b"1", None] == [record.value for record in await collect(reader, 3)]
    await reader.close()
    with pytest.raises(Broken, match="a key or a value"):
        await log.append([Entry(topic, None, None, NOW_MS, 0)])


async def test_reading_starts_at_positions_and_follows_seek(log: Log, prefix: str) -> None:
    """A reader starts where it is told, goes where it is sent, and from an offset out of range goes on at the earliest record."""
    (topic,) = await make(log, prefix, seek=1)
    at = TopicPartition(topic, 0)
    await log.append([entry(topic, "k", str(n)) for n in range(10)])
    reader = log.reader({at: 7})
    assert ["7", "8", "9"] == values(await collect(reader, 3))
    reader.seek(at, 8)
    assert {at: 8} == reader.positions()
    assert ["8", "9"] == values(await collect(reader, 2))
    reader.seek(at, 1_000)
    assert [str(n) for n in range(10)] == values(await collect(reader, 10))
    with pytest.raises(Broken, match="not read here"):
        reader.seek(TopicPartition(topic, 5), 0)
    await reader.close()


async def test_poll_waits_for_the_first_record_and_no_longer(log: Log, prefix: str) -> None:
    """An empty poll ends at its time-out; a waiting one ends with the append; `records_max` bounds a batch."""
    (topic,) = await make(log, prefix, poll=1)
    loop = asyncio.get_running_loop()
    reader = log.reader({TopicPartition(topic, 0): 0})
    began = loop.time()
    assert [] == await reader.poll(timeout_ms=QUIET_MS)
    assert QUIET_MS / 1_000 * 0.9 <= loop.time() - began < 5
    waiting = asyncio.create_task(reader.poll(timeout_ms=POLL_MS))
    await asyncio.sleep(0.05)
    began = loop.time()
    await log.append([entry(topic, "k", str(n)) for n in range(5)])
    assert [str(n) for n in range(5)] == values(await waiting)
    assert loop.time() - began < 2
    reader.seek(TopicPartition(topic, 0), 0)
    batches = [await reader.poll(timeout_ms=POLL_MS, records_max=2) for _ in range(3)]
    assert [2, 2, 1] == [len(batch) for batch in batches]
    await reader.close()


async def test_offsets_are_found_by_time_and_at_both_ends(log: Log, prefix: str) -> None:
    """The first offset at or after an instant, also where stamps are out of order; null past the last; begin and end."""
    (topic,) = await make(log, prefix, times=3)
    first, second, empty = (TopicPartition(topic, partition) for partition in range(3))
    await log.append([entry(topic, None, str(n), NOW_MS + 10 * n, 0) for n in range(5)])
    await log.append([entry(topic, None, "late", NOW_MS + 100, 1), entry(topic, None, "early", NOW_MS, 1)])
    assert {first: 0, second: 0, empty: 0} == await log.begin_offsets([first, second, empty])
    assert {first: 5, second: 2, empty: 0} == await log.end_offsets([first, second, empty])
    wanted = {first: NOW_MS + 11, second: NOW_MS - 1, empty: 0}
    assert {first: 2, second: 0, empty: None} == await log.offsets_for_time(wanted)
    assert {first: None} == await log.offsets_for_time({first: NOW_MS + 41})
    assert {first: 0, second: 0} == await log.offsets_for_time({first: 0, second: NOW_MS + 50})


async def test_topics_are_created_once_described_and_deleted(log: Log, prefix: str) -> None:
    """Creating again is no error and creates nothing; another count is Rejected before anything is made; configs are kept."""
    layouts = [TopicLayout(f"{prefix}.a", 2, {"cleanup.policy": "compact"}), TopicLayout(f"{prefix}.b", 1, {})]
    assert [f"{prefix}.a"] == await log.create_topics(layouts[:1])
    assert [f"{prefix}.b"] == await log.create_topics(layouts)
    assert [] == await log.create_topics(layouts)
    with pytest.raises(Rejected, match="has 2 partitions and needs 3") as refused:
        await log.create_topics([TopicLayout(f"{prefix}.c", 1, {}), TopicLayout(f"{prefix}.a", 3, {})])
    assert "partition_count" == refused.value.code
    found = await log.describe_topics([f"{prefix}.a", f"{prefix}.b", f"{prefix}.c"])
    assert {f"{prefix}.a": 2, f"{prefix}.b": 1} == {name: layout.partitions for name, layout in found.items()}
    assert "compact" == found[f"{prefix}.a"].config["cleanup.policy"]
    assert {f"{prefix}.a", f"{prefix}.b"} <= set(await log.describe_topics())
    await log.delete_topics([f"{prefix}.a", f"{prefix}.nowhere"])
    assert [f"{prefix}.b"] == list(await log.describe_topics([f"{prefix}.a", f"{prefix}.b"]))


async def test_a_topic_that_does_not_exist_is_a_mistake(log: Log, prefix: str) -> None:
    """Auto-creation is off: appending, joining and looking up say so at once."""
    missing = f"{prefix}.nowhere"
    with pytest.raises(Broken, match="does not exist"):
        await log.append([entry(missing, "k", "v")])
    with pytest.raises(Broken, match="does not exist"):
        await log.join("group", [missing])
    with pytest.raises(Broken, match="does not exist"):
        await log.end_offsets([TopicPartition(missing, 0)])


async def test_big_batches_arrive_whole_and_in_order(log: Log, prefix: str) -> None:
    """20,000 records over 4 partitions, and one record of 900 kB."""
    (topic,) = await make(log, prefix, big=4)
    batch = [entry(topic, f"k{n % 97}", f"{n:06d}" + "x" * 100) for n in range(20_000)]
    await log.append(batch)
    large = "".join(chr(33 + (n * n + n // 7) % 90) for n in range(900_000))
    await log.append([entry(topic, "k0", large)])
    seen: list[Record] = []
    async for records in scan.to_end(log, await scan.partitions_of(log, [topic])):
        seen += records
    assert 20_001 == len(seen)
    per_partition: dict[int, list[str]] = {}
    for record in seen[:]:
        per_partition.setdefault(record.partition, []).append((record.value or b"").decode()[:6])
    for numbers in per_partition.values():
        counted = [number for number in numbers if number.isdigit()]
        assert sorted(counted) == counted
    assert large in [value for value in values(seen) if len(value) > 1_000]


async def test_a_group_starts_at_the_earliest_and_goes_on_at_its_commits(log: Log, prefix: str) -> None:
    """Without commits a member reads all; a successor goes on exactly at the committed offset."""
    (topic,) = await make(log, prefix, work=1)
    at = TopicPartition(topic, 0)
    await log.append([entry(topic, "k", str(n)) for n in range(6)])
    member = await log.join(f"{prefix}-g", [topic])
    assert frozenset() == member.assignment()
    records = await until_assigned(member, count=1)
    records += await collect(member, 6 - len(records))
    assert [str(n) for n in range(6)] == values(records)
    assert await member.committed(at) is None
    await member.commit({at: 4})
    assert 4 == await member.committed(at)
    await member.close()
    successor = await log.join(f"{prefix}-g", [topic])
    records = await until_assigned(successor, count=1)
    records += await collect(successor, 2 - len(records))
    assert ["4", "5"] == values(records)
    await successor.close()


async def test_the_assignment_hook_chooses_positions(log: Log, prefix: str) -> None:
    """`on_assigned` runs before the first record, and the positions that it returns win over the committed ones."""
    (topic,) = await make(log, prefix, choose=2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await log.append([entry(topic, None, f"{p}-{n}", partition=p) for p in (0, 1) for n in range(4)])
    told: list[frozenset[TopicPartition]] = []

    async def assigned(partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, int]:
        told.append(partitions)
        return {first: 3}

    member = await log.join(f"{prefix}-g", [topic], on_assigned=assigned)
    records = await until_assigned(member, count=2)
    records += await collect(member, 5 - len(records))
    assert [frozenset({first, second})] == told
    assert ["0-3", "1-0", "1-1", "1-2", "1-3"] == sorted(values(records))
    await member.close()


async def test_a_rebalance_hands_over_without_loss_and_keeps_topics_together(log: Log, prefix: str) -> None:
    """A second member takes half: the first one commits in its hook, both hold the same partitions of two topics, nothing is missed."""
    left, right = await make(log, prefix, left=4, right=4)
    await log.append([entry(topic, None, f"{topic[-4:]}{p}", partition=p) for topic in (left, right) for p in range(4)])
    group = f"{prefix}-g"
    given_up: list[frozenset[TopicPartition]] = []
    first: Member

    async def revoked(partitions: frozenset[TopicPartition]) -> None:
        given_up.append(partitions)
        assert partitions == first.assignment()
        await first.commit({at: offset for at, offset in first.positions().items() if at in partitions})

    first = await log.join(group, [left, right], on_revoked=revoked)
    seen = await until_assigned(first, count=8)
    seen += await collect(first, 8 - len(seen))
    second = await log.join(group, [left, right])
    assert [] == await until_assigned(first, second, count=8)
    assert 8 == len(given_up[0])
    for member in (first, second):
        held = member.assignment()
        assert 4 == len(held)
        assert {at.partition for at in held if at.topic == left} == {at.partition for at in held if at.topic == right}
    assert frozenset() == first.assignment() & second.assignment()
    await log.append([entry(topic, None, "new", partition=p) for topic in (left, right) for p in range(4)])
    after = await asyncio.gather(collect(first, 4), collect(second, 4))
    assert ["new"] * 8 == values([*after[0], *after[1]])
    await first.close()
    assert 4 == len(given_up[1])
    await until_assigned(second, count=8)
    await second.close()


async def test_a_commit_for_what_went_to_somebody_else_is_stale(log: Log, prefix: str) -> None:
    """After a rebalance the old holder of a partition cannot move its offset any more."""
    (topic,) = await make(log, prefix, stale=2)
    group = f"{prefix}-g"
    first = await log.join(group, [topic])
    await until_assigned(first, count=2)
    second = await log.join(group, [topic])
    await until_assigned(first, second, count=2)
    (lost,) = second.assignment()
    with pytest.raises(Stale):
        await first.commit({lost: 1})
    assert await second.committed(lost) is None
    await first.close()
    await second.close()


async def test_a_member_that_does_not_poll_loses_its_partitions(log: Log, prefix: str) -> None:
    """Past the rebalance deadline the others go on; the sleeper's commit is Stale, and its next poll tells it what it lost."""
    (topic,) = await make(log, prefix, slow=2)
    group = f"{prefix}-g"
    told: list[frozenset[TopicPartition]] = []

    async def revoked(partitions: frozenset[TopicPartition]) -> None:
        told.append(partitions)

    sleeper = await log.join(group, [topic], on_revoked=revoked)
    await until_assigned(sleeper, count=2)
    held = sleeper.assignment()
    second = await log.join(group, [topic])
    await until_assigned(second, count=1)
    assert [] == told
    with pytest.raises(Stale):
        await sleeper.commit(dict.fromkeys(second.assignment(), 1))
    with pytest.raises(Stale):  # it may get this one back, but somebody else could have had it in between
        await sleeper.commit(dict.fromkeys(held - second.assignment(), 1))
    await sleeper.poll(timeout_ms=POLL_MS // 10)
    assert [held] == told
    assert held - second.assignment() == sleeper.assignment()
    await sleeper.close()
    await second.close()


async def test_a_hook_that_raises_is_heard_and_asked_again(log: Log, prefix: str) -> None:
    """What `on_assigned` raises comes out of poll; the next poll asks it again and then hands out records."""
    (topic,) = await make(log, prefix, hook=1)
    await log.append([entry(topic, "k", "v")])
    attempts = 0

    async def assigned(_partitions: frozenset[TopicPartition]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise Broken("not yet")

    member = await log.join(f"{prefix}-g", [topic], on_assigned=assigned)
    with pytest.raises(Broken, match="not yet"):
        await until_assigned(member, count=1)
    assert frozenset() == member.assignment()
    assert ["v"] == values(await collect(member, 1))
    assert 2 == attempts
    await member.close()


async def test_lag_counts_what_is_still_to_come(log: Log, prefix: str) -> None:
    """After a bounded poll the lag is what lies behind the position."""
    (topic,) = await make(log, prefix, lag=1)
    at = TopicPartition(topic, 0)
    await log.append([entry(topic, "k", str(n)) for n in range(10)])
    reader = log.reader({at: 0})
    await reader.poll(timeout_ms=POLL_MS, records_max=4)
    assert {at: 6} == reader.lag()
    await reader.close()


async def test_concurrent_appends_keep_each_batch_together_in_order(log: Log, prefix: str) -> None:
    """Batches of several tasks may alternate, but inside each one the order of its entries holds."""
    (topic,) = await make(log, prefix, together=1)
    await asyncio.gather(*(log.append([entry(topic, f"t{task}", str(n)) for n in range(50)]) for task in range(4)))
    reader = log.reader({TopicPartition(topic, 0): 0})
    records = await collect(reader, 200)
    for task in range(4):
        assert [str(n) for n in range(50)] == values([record for record in records if record.key == f"t{task}".encode()])
    await reader.close()
