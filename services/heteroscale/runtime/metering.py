"""A Log that counts: what goes through it, how long appends take, how far readers are behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from heteroscale.bus.log import AssignedHook, Entry, Log, Member, Reader, Record, RevokedHook, TopicLayout, TopicPartition
from heteroscale.contracts.errors import HeteroscaleError
from heteroscale.contracts.topics import topic_of
from heteroscale.runtime import metrics
from heteroscale.runtime.clock import SYSTEM, Clock
from heteroscale.runtime.metrics import Metrics

LAG_EVERY_S: Final = 1.0
OTHER: Final = "other"


def label_of(name: str) -> str:
    """A topic's name as a metric label: without the prefix, since prefixes are not bounded."""
    topic = topic_of(name)
    return OTHER if topic is None else topic.value


def dead_letter_counter(registry: Metrics) -> _DeadLetterCounter:
    """The counter that a dead-letter guard takes."""
    return _DeadLetterCounter(registry)


class _DeadLetterCounter:
    def __init__(self, registry: Metrics) -> None:
        self._registry = registry

    def __call__(self, topic: str, stage: str, code: str) -> None:
        """One more."""
        self._registry.add(metrics.DEAD_LETTERS, 1, topic=label_of(topic), stage=stage, code=code)


class MeteredLog:
    """Everything is handed on to `log`."""

    def __init__(self, log: Log, registry: Metrics, clock: Clock = SYSTEM) -> None:
        self._log = log
        self._registry = registry
        self._clock = clock

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append; counts records and seconds."""
        began_s = self._clock.monotonic_s()
        try:
            offsets = await self._log.append(entries)
        except HeteroscaleError as error:
            self._registry.add(metrics.BUS_ERRORS, 1, kind=type(error).__name__)
            raise
        self._registry.observe(metrics.BUS_APPEND_SECONDS, self._clock.monotonic_s() - began_s)
        for topic, count in Counter(entry.topic for entry in entries).items():
            self._registry.add(metrics.BUS_APPENDED, count, topic=label_of(topic))
        return offsets

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        """A reader that starts at `positions`; counts records."""
        return MeteredReader(self._log.reader(positions), self._registry, self._clock)

    async def join(
        self,
        group: str,
        topics: Iterable[str],
        *,
        on_assigned: AssignedHook | None = None,
        on_revoked: RevokedHook | None = None,
    ) -> Member:
        """Join a consumer group; counts records, assignments and lag."""

        async def assigned(partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, int] | None:
            self._registry.add(metrics.BUS_REBALANCES, 1, group=group)
            return None if on_assigned is None else await on_assigned(partitions)

        async def revoked(partitions: frozenset[TopicPartition]) -> None:
            member.forget(partitions)
            if on_revoked is not None:
                await on_revoked(partitions)

        inner = await self._log.join(group, topics, on_assigned=assigned, on_revoked=revoked)
        member = MeteredMember(inner, self._registry, self._clock)
        return member

    async def begin_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """First offset still held."""
        return await self._log.begin_offsets(partitions)

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Next offset to be written."""
        return await self._log.end_offsets(partitions)

    async def offsets_for_time(self, at_ms: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
        """First offset at or after an instant."""
        return await self._log.offsets_for_time(at_ms)

    async def create_topics(self, layouts: Iterable[TopicLayout]) -> list[str]:
        """Create those that do not exist."""
        return await self._log.create_topics(layouts)

    async def describe_topics(self, names: Iterable[str] | None = None) -> dict[str, TopicLayout]:
        """The topics there are."""
        return await self._log.describe_topics(names)

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics."""
        await self._log.delete_topics(names)

    async def close(self) -> None:
        """Flush and let go."""
        await self._log.close()


class MeteredReader:
    """A Reader that counts."""

    def __init__(self, reader: Reader, registry: Metrics, clock: Clock) -> None:
        self._reader = reader
        self._registry = registry
        self._clock = clock

    async def poll(self, *, timeout_ms: int, records_max: int = 5_000) -> list[Record]:
        """Next records."""
        records = await self._reader.poll(timeout_ms=timeout_ms, records_max=records_max)
        for topic, count in Counter(record.topic for record in records).items():
            self._registry.add(metrics.BUS_POLLED, count, topic=label_of(topic))
        return records

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to be returned."""
        return self._reader.positions()

    def lag(self) -> dict[TopicPartition, int]:
        """Records behind the end."""
        return self._reader.lag()

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Go on from `offset`."""
        self._reader.seek(at, offset)

    async def close(self) -> None:
        """Let go."""
        await self._reader.close()


class MeteredMember(MeteredReader):
    """A Member that counts, and shows its lag about once a second."""

    def __init__(self, member: Member, registry: Metrics, clock: Clock) -> None:
        super().__init__(member, registry, clock)
        self._member = member
        self._shown_s = 0.0

    async def poll(self, *, timeout_ms: int, records_max: int = 5_000) -> list[Record]:
        """Next records."""
        records = await super().poll(timeout_ms=timeout_ms, records_max=records_max)
        now_s = self._clock.monotonic_s()
        if now_s - self._shown_s >= LAG_EVERY_S:
            self._shown_s = now_s
            for at, lag in self._member.lag().items():
                self._registry.set(metrics.BUS_LAG, lag, topic=label_of(at.topic), partition=str(at.partition))
        return records

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions it holds now."""
        return self._member.assignment()

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit next offsets."""
        await self._member.commit(offsets)

    async def committed(self, at: TopicPartition) -> int | None:
        """The group's committed next offset, or null."""
        return await self._member.committed(at)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Somebody else shows the lag of these from now on."""
        for at in partitions:
            self._registry.forget(metrics.BUS_LAG, topic=label_of(at.topic), partition=str(at.partition))
