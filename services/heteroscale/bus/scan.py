"""Reading a topic as it stands: a range of offsets, or all up to the end it had at the call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing

from heteroscale.bus.log import Log, Record, TopicPartition
from heteroscale.contracts.errors import Broken, Retryable

PATIENCE_POLLS = 20
POLL_MS = 500


async def partitions_of(log: Log, topics: Iterable[str]) -> list[TopicPartition]:
    """All partitions of `topics`, sorted. Raises Broken for a topic that does not exist."""
    names = sorted(set(topics))
    layouts = await log.describe_topics(names)
    missing = [name for name in names if name not in layouts]
    if missing:
        raise Broken(f"topic {missing[0]} does not exist; `heteroscale topics create` makes it")
    return [TopicPartition(name, partition) for name in names for partition in range(layouts[name].partitions)]


async def between(log: Log, ranges: Mapping[TopicPartition, tuple[int, int]]) -> AsyncGenerator[list[Record], None]:
    """Batches of each partition's [first, end), in offset order per partition.

    Raises Retryable when nothing comes for PATIENCE_POLLS * POLL_MS although the ends are not reached.
    """
    ends = {at: end for at, (first, end) in ranges.items() if first < end}
    if not ends:
        return
    reader = log.reader({at: ranges[at][0] for at in ends})
    idle = 0
    try:
        while any(position < ends[at] for at, position in reader.positions().items()):
            records = await reader.poll(timeout_ms=POLL_MS)
            idle = 0 if records else idle + 1
            if idle > PATIENCE_POLLS:
                behind = {str(at): position for at, position in sorted(reader.positions().items()) if position < ends[at]}
                raise Retryable(f"reading to the end of {behind} does not go on")
            kept = [record for record in records if record.offset < ends[record.at]]
            if kept:
                yield kept
    finally:
        await reader.close()


async def to_end(
    log: Log, partitions: Iterable[TopicPartition], start: Mapping[TopicPartition, int] | None = None
) -> AsyncIterator[list[Record]]:
    """Batches from `start` (or the earliest) up to the ends at the call; otherwise as `between`."""
    wanted = sorted(set(partitions))
    ends = await log.end_offsets(wanted)
    begins = await log.begin_offsets(wanted)
    ranges = {at: (max(begins[at], (start or {}).get(at, 0)), ends[at]) for at in wanted}
    async with aclosing(between(log, ranges)) as batches:
        async for records in batches:
            yield records
