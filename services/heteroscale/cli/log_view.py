"""Looking at the topics from outside: newest records, newest tick. Reads only, without a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from heteroscale.bus import partitioning, scan
from heteroscale.bus.log import Log, Record, TopicPartition
from heteroscale.contracts import codec, keys
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.telemetry import Tick
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import clock

M = TypeVar("M", bound=msgspec.Struct)

FIRST_LOOK_RECORDS = 500  # of a partition's end; more only while what is sought is not among them


class LogView:
    """The topics of one prefix. Raises Rejected (`no_topics`) that says how to make them."""

    def __init__(self, log: Log, prefix: str) -> None:
        self.log = log
        self.prefix = prefix

    def name(self, topic: Topic) -> str:
        """Full name."""
        return topic_name(self.prefix, topic)

    async def partitions(self, topic: Topic) -> list[TopicPartition]:
        """All partitions of a topic."""
        name = self.name(topic)
        layouts = await self.log.describe_topics([name])
        if name not in layouts:
            cure = f"heteroscale --prefix {self.prefix} topics create"
            raise Rejected("no_topics", f"there is no topic {name}; make the topics with: {cure}, or name the right --prefix")
        return [TopicPartition(name, partition) for partition in range(layouts[name].partitions)]

    async def home(self, topic: Topic, key: str) -> TopicPartition:
        """The partition of a key."""
        partitions = await self.partitions(topic)
        return partitions[partitioning.partition_of(key.encode(), len(partitions))]

    async def records(self, topic: Topic, partitions: Iterable[TopicPartition] | None = None) -> list[Record]:
        """All records still held, in offset order per partition."""
        places = list(partitions) if partitions is not None else await self.partitions(topic)
        return [record async for batch in scan.to_end(self.log, places) for record in batch]

    async def last(self, at: TopicPartition, wanted: Callable[[Record], bool]) -> Record | None:
        """The newest record of a partition that is wanted; looks from the end backwards."""
        begin = (await self.log.begin_offsets([at]))[at]
        upper = (await self.log.end_offsets([at]))[at]
        look = FIRST_LOOK_RECORDS
        while upper > begin:
            lower = max(begin, upper - look)
            found: Record | None = None
            async for batch in scan.between(self.log, {at: (lower, upper)}):
                for record in batch:
                    if wanted(record):
                        found = record
            if found is not None:
                return found
            upper, look = lower, look * 8
        return None

    async def newest(self, kind: type[M], topic: Topic, service: str) -> M | None:
        """The newest message of a service that can be read; null if there is none."""
        key = service.encode()
        home = await self.home(topic, service)
        return decoded(kind, await self.last(home, lambda record: record.key == key and decoded(kind, record) is not None))

    async def newest_each(self, kind: type[M], topic: Topic) -> dict[str, M]:
        """The newest message of each key of a compacted topic that can be read, by key in sorted order; none after a tombstone."""
        newest: dict[str, M] = {}
        for record in await self.records(topic):
            key = keys.text_of(record.key)
            message = decoded(kind, record)
            if message is not None:
                newest[key] = message
            elif record.value is None:
                newest.pop(key, None)
        return dict(sorted(newest.items()))

    async def newest_tick_ms(self) -> int | None:
        """The largest of the partitions' newest ticks; null where nobody ticks."""
        ticks: list[int] = []
        for at in await self.partitions(Topic.TELEMETRY):
            record = await self.last(at, lambda record: record.key is None and decoded(Tick, record) is not None)
            tick = decoded(Tick, record)
            if tick is not None:
                ticks.append(tick.at_ms)
        return max(ticks, default=None)

    async def now_ms(self) -> int:
        """The newest tick, else the wall clock."""
        tick = await self.newest_tick_ms()
        return clock.now_ms() if tick is None else tick


def decoded(kind: type[M], record: Record | None) -> M | None:
    """The message of a record; null for none, a tombstone or one that cannot be read."""
    if record is None or record.value is None:
        return None
    try:
        return codec.decode(kind, record.value)
    except Rejected:
        return None
