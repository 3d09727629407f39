"""Reading a topic as it stands: from its beginning (or given positions) to the end it had at the call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

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


async def to_end(
    log: Log, partitions: Iterable[TopicPartition], start: Mapping[TopicPartition, int] | None = None
) -> AsyncIterator[list[Record]]:
    """Batches from `start` (or the earliest) up to the ends at the call, in offset order per partition.

    Raises Retryable when nothing comes for PATIENCE_POLLS * POLL_MS although the ends are not reached.
    """
    wanted = sorted(set(partitions))
    ends = await log.end_offsets(wanted)
    begins = await log.begin_offsets(wanted)
    positions = {at: max(begins[at], (start or {}).get(at, 0)) for at in wanted}
    positions = {at: position for at, position in positions.items() if position < ends[at]}
    reader = log.reader(positions)
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


async def newest_by_key(log: Log, topic: str) -> dict[bytes, Record]:
    """The newest record of each key of a compacted topic, by key in sorted order; deleted keys are left out."""
    newest: dict[bytes, Record] = {}
    async for batch in to_end(log, await partitions_of(log, [topic])):
        for record in batch:
            if record.key is not None:
                newest[record.key] = record
    return {key: record for key, record in sorted(newest.items()) if record.value is not None}
