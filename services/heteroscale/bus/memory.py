"""The log in memory: same order, keys, groups and look-ups as Kafka, in one process and deterministic under asyncio.

Nothing survives the process. Pollers are woken by appends, so that a simulated day costs no waiting; a timer runs only while
a poll has nothing to return.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Iterable, Mapping, Sequence

from heteroscale.bus import memory_group, partitioning
from heteroscale.bus.log import AssignedHook, Entry, Member, Reader, Record, RevokedHook, TopicLayout, TopicPartition
from heteroscale.bus.memory_group import GroupCoordinator
from heteroscale.contracts.errors import Broken, Rejected

DEFAULT_REBALANCE_DEADLINE_MS = 10_000  # as BusSettings.rebalance_deadline_ms


class Partition:
    """Records of one partition. `first` is the offset of the oldest one still held."""

    __slots__ = ("first", "in_time_order", "records")

    def __init__(self) -> None:
        self.first = 0
        self.records: list[Record] = []
        self.in_time_order = True

    @property
    def end(self) -> int:
        """Next offset to be written."""
        return self.first + len(self.records)

    def put(self, at: TopicPartition, entry: Entry) -> int:
        """Append one record; its offset."""
        offset = self.end
        if self.records and entry.timestamp_ms < self.records[-1].timestamp_ms:
            self.in_time_order = False
        self.records.append(Record(at.topic, at.partition, offset, entry.timestamp_ms, entry.key, entry.value))
        return offset

    def after(self, offset: int, records_max: int) -> list[Record]:
        """Up to `records_max` records from `offset` on."""
        start = offset - self.first
        return self.records[start : start + records_max]

    def trim(self, keep: int) -> None:
        """Let go of all but the newest `keep` records."""
        excess = len(self.records) - keep
        if excess > 0:
            del self.records[:excess]
            self.first += excess

    def offset_at(self, at_ms: int) -> int | None:
        """First offset stamped at or after `at_ms`."""
        if self.in_time_order:
            index = bisect.bisect_left(self.records, at_ms, key=lambda record: record.timestamp_ms)
            return self.first + index if index < len(self.records) else None
        return next((record.offset for record in self.records if record.timestamp_ms >= at_ms), None)


class MemoryLog:
    """A Log without a broker. `retain` bounds the records kept in a partition of a topic that is not compacted."""

    def __init__(self, *, retain: int | None = None, rebalance_deadline_ms: int = DEFAULT_REBALANCE_DEADLINE_MS) -> None:
        self._retain = retain
        self._rebalance_deadline_s = rebalance_deadline_ms / 1_000
        self._layouts: dict[str, TopicLayout] = {}
        self._partitions: dict[TopicPartition, Partition] = {}
        self._places: dict[str, list[TopicPartition]] = {}
        self._groups: dict[str, GroupCoordinator] = {}
        self._waiting: dict[TopicPartition, dict[asyncio.Event, None]] = {}

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append in order; offsets in the order of `entries`. All of them, or (Broken) none."""
        places = [self._place(entry) for entry in entries]
        offsets = [self._partitions[at].put(at, entry) for at, entry in zip(places, entries, strict=True)]
        for at in dict.fromkeys(places):
            self._trim(at)
            for event in self._waiting.get(at, ()):
                event.set()
        await asyncio.sleep(0)  # readers get their turn, as they would behind a broker
        return offsets

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        """A reader that starts at `positions`."""
        return MemoryReader(self, positions)

    async def join(
        self,
        group: str,
        topics: Iterable[str],
        *,
        on_assigned: AssignedHook | None = None,
        on_revoked: RevokedHook | None = None,
    ) -> Member:
        """Join a consumer group; see the protocol for when hooks run."""
        names = sorted(set(topics))
        for name in names:
            self._layout(name)
        coordinator = self._groups.get(group)
        if coordinator is None:
            coordinator = self._groups[group] = GroupCoordinator(self._counts, self._rebalance_deadline_s)
        hooks = memory_group.Hooks(on_assigned, on_revoked)
        return coordinator.join(MemoryReader(self, {}), names, hooks)

    async def begin_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """First offset still held."""
        return {at: self._partition(at).first for at in partitions}

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Next offset to be written."""
        return {at: self._partition(at).end for at in partitions}

    async def offsets_for_time(self, at_ms: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
        """First offset whose timestamp is at or after the given instant; null if there is none."""
        return {at: self._partition(at).offset_at(instant) for at, instant in at_ms.items()}

    async def create_topics(self, layouts: Iterable[TopicLayout]) -> list[str]:
        """Create those that do not exist; Rejected (`partition_count`) if one exists with another count."""
        wanted = list(layouts)
        for layout in wanted:
            existing = self._layouts.get(layout.name)
            if existing is not None and existing.partitions != layout.partitions:
                raise Rejected(
                    "partition_count",
                    f"has {existing.partitions} partitions and needs {layout.partitions}; delete it, or use another prefix",
                    layout.name,
                )
        created = []
        for layout in wanted:
            if layout.name in self._layouts:
                continue
            self._layouts[layout.name] = TopicLayout(layout.name, layout.partitions, dict(layout.config))
            self._places[layout.name] = [TopicPartition(layout.name, index) for index in range(layout.partitions)]
            self._partitions.update((at, Partition()) for at in self._places[layout.name])
            created.append(layout.name)
        return created

    async def describe_topics(self, names: Iterable[str] | None = None) -> dict[str, TopicLayout]:
        """The topics there are (all, or those of `names` that exist)."""
        wanted = sorted(self._layouts) if names is None else sorted(set(names) & self._layouts.keys())
        return {name: self._layouts[name] for name in wanted}

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics; one that does not exist is no error."""
        for name in names:
            self._layouts.pop(name, None)
            for at in self._places.pop(name, []):
                del self._partitions[at]

    async def close(self) -> None:
        """Nothing to let go."""

    def take(self, positions: dict[TopicPartition, int], order: Sequence[TopicPartition], records_max: int) -> list[Record]:
        """Records at `positions`, partition by partition in `order`; moves the positions on. For readers."""
        taken: list[Record] = []
        for at in order:
            partition = self._partitions.get(at)
            if partition is None:
                continue
            position = positions[at]
            if not partition.first <= position <= partition.end:
                position = positions[at] = partition.first  # out of range: the earliest, so that nothing is missed
            if position < partition.end:
                records = partition.after(position, records_max - len(taken))
                positions[at] = position + len(records)
                taken += records
                if len(taken) >= records_max:
                    break
        return taken

    def lag(self, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Records behind the end, per partition that exists. For readers."""
        return {at: self._partitions[at].end - position for at, position in positions.items() if at in self._partitions}

    def listen(self, partitions: Iterable[TopicPartition], event: asyncio.Event) -> None:
        """Set `event` at the next append to one of `partitions`. For readers."""
        for at in partitions:
            self._waiting.setdefault(at, {})[event] = None

    def unlisten(self, partitions: Iterable[TopicPartition], event: asyncio.Event) -> None:
        """Undo `listen`."""
        for at in partitions:
            self._waiting.get(at, {}).pop(event, None)

    def _place(self, entry: Entry) -> TopicPartition:
        layout = self._layout(entry.topic)
        if entry.key is None and entry.value is None:
            raise Broken(f"{entry.topic}: a record needs a key or a value")
        if entry.timestamp_ms < 0:
            raise Broken(f"{entry.topic}: a timestamp is milliseconds since 1970, not {entry.timestamp_ms}")
        if entry.partition is None:
            if entry.key is None:
                raise Broken(f"{entry.topic}: a record without a key needs a partition")
            return self._places[entry.topic][partitioning.partition_of(entry.key, layout.partitions)]
        if not 0 <= entry.partition < layout.partitions:
            raise Broken(f"{entry.topic} has partitions 0 to {layout.partitions - 1}, not {entry.partition}")
        return self._places[entry.topic][entry.partition]

    def _layout(self, topic: str) -> TopicLayout:
        layout = self._layouts.get(topic)
        if layout is None:
            raise Broken(f"topic {topic} does not exist")
        return layout

    def _partition(self, at: TopicPartition) -> Partition:
        partition = self._partitions.get(at)
        if partition is None:
            raise Broken(f"{at} does not exist")
        return partition

    def _counts(self, topics: Iterable[str]) -> dict[str, int]:
        return {topic: self._layouts[topic].partitions for topic in topics if topic in self._layouts}

    def _trim(self, at: TopicPartition) -> None:
        if self._retain is not None and self._layouts[at.topic].config.get("cleanup.policy") != "compact":
            self._partitions[at].trim(self._retain)


class MemoryReader:
    """Reads a MemoryLog. Partitions take turns at going first, so that a busy one starves nobody."""

    def __init__(self, log: MemoryLog, positions: Mapping[TopicPartition, int]) -> None:
        self._log = log
        self._positions: dict[TopicPartition, int] = dict(positions)
        self._order = sorted(positions)
        self.wake = asyncio.Event()

    async def poll(self, *, timeout_ms: int, records_max: int = 5_000) -> list[Record]:
        """Next records, waiting at most `timeout_ms` for the first."""
        await asyncio.sleep(0)  # a reader that never runs dry still lets others run
        records = self.take(records_max)
        if records or timeout_ms <= 0:
            return records
        await self.wait(timeout_ms / 1_000)
        return self.take(records_max)

    def take(self, records_max: int) -> list[Record]:
        """What is there now."""
        if len(self._order) > 1:
            self._order.append(self._order.pop(0))
        return self._log.take(self._positions, self._order, records_max)

    async def wait(self, timeout_s: float) -> None:
        """Until an append to one of the partitions, a `wake`, or the time-out."""
        self.wake.clear()
        watched = tuple(self._order)
        self._log.listen(watched, self.wake)
        try:
            async with asyncio.timeout(timeout_s):
                await self.wake.wait()
        except TimeoutError:
            pass
        finally:
            self._log.unlisten(watched, self.wake)

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to be returned, per partition."""
        return dict(self._positions)

    def lag(self) -> dict[TopicPartition, int]:
        """Records behind the end, per partition."""
        return self._log.lag(self._positions)

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Go on from `offset`. Raises Broken for a partition that is not read."""
        if at not in self._positions:
            raise Broken(f"{at} is not read here")
        self._positions[at] = offset

    def restart(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from now on. For group members."""
        self._positions = dict(positions)
        self._order = sorted(positions)

    async def close(self) -> None:
        """Stop reading."""
        self.restart({})
