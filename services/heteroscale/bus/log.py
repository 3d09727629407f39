"""The one interface to the record log. Services, tools and tests know this; only bus.kafka knows aiokafka.

Delivery is at least once; order holds inside a partition. Offsets are committed explicitly, as *next* offsets, and only
after the effects of what precedes them are durable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol


class TopicPartition(NamedTuple):
    """A partition by full topic name; `str()` gives the form that messages carry (`topic-partition`)."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class Record(NamedTuple):
    """One record as it stands on the log. `value` null is a tombstone."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None

    @property
    def at(self) -> TopicPartition:
        """The partition it came from."""
        return TopicPartition(self.topic, self.partition)


class Entry(NamedTuple):
    """One record to append. Without `partition`, murmur2 of the key decides; a null key needs a partition."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    partition: int | None = None


class TopicLayout(NamedTuple):
    """How a topic is to be, or is, laid out."""

    name: str
    partitions: int
    config: Mapping[str, str]


class Reader(Protocol):
    """Reads given partitions from given positions, without a group."""

    async def poll(self, *, timeout_ms: int, records_max: int = 5_000) -> list[Record]:
        """Next records, waiting at most `timeout_ms` for the first. Empty on time-out. Raises Retryable."""
        ...

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to be returned, per partition."""
        ...

    def lag(self) -> dict[TopicPartition, int]:
        """Records known to lie between the position and the end, per partition (no request is made)."""
        ...

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Go on from `offset`. An offset out of range goes on from the earliest record, so that nothing is missed."""
        ...

    async def close(self) -> None:
        """Let go; bounded in time."""
        ...


AssignedHook = Callable[[frozenset[TopicPartition]], Awaitable[Mapping[TopicPartition, int] | None]]
RevokedHook = Callable[[frozenset[TopicPartition]], Awaitable[None]]


class Member(Reader, Protocol):
    """A member of a consumer group (range assignor: partition p of all topics goes to one member)."""

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions it holds now."""
        ...

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit next offsets. Raises Stale when the partitions went to somebody else, Retryable when the log is away."""
        ...

    async def committed(self, at: TopicPartition) -> int | None:
        """The group's committed next offset, or null."""
        ...


class Log(Protocol):
    """Append, read, look up, lay out. Every await is bounded; Retryable when the log is away, Broken on misuse."""

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append in order and wait until durable; offsets in the order of `entries`.

        After Retryable the outcome is unknown: append the same entries again. What was under way is waited for first, so
        order holds, and a repetition of exactly those entries is not written twice.
        """
        ...

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        """A reader that starts at `positions`."""
        ...

    async def join(
        self,
        group: str,
        topics: Iterable[str],
        *,
        on_assigned: AssignedHook | None = None,
        on_revoked: RevokedHook | None = None,
    ) -> Member:
        """Join a consumer group. A group without commits starts at the earliest record.

        `on_revoked` runs before partitions are given up and may commit; `on_assigned` runs with each new whole assignment,
        before the first record, and may return positions to start from in place of the committed ones. Both run inside the
        member's own `poll` (and `on_revoked` inside `close`), so they are never concurrent with the caller's work on a batch;
        nothing is assigned before the first poll. A hook that raises does so out of `poll`. Who does not poll within the
        rebalance deadline loses its partitions all the same; its commits are then Stale.
        """
        ...

    async def begin_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """First offset still held."""
        ...

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Next offset to be written."""
        ...

    async def offsets_for_time(self, at_ms: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
        """First offset whose timestamp is at or after the given instant; null if there is none."""
        ...

    async def create_topics(self, layouts: Iterable[TopicLayout]) -> list[str]:
        """Create those that do not exist; returns the names created. Rejected (`partition_count`) if one exists with others."""
        ...

    async def describe_topics(self, names: Iterable[str] | None = None) -> dict[str, TopicLayout]:
        """The topics there are (all, or those of `names` that exist)."""
        ...

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics."""
        ...

    async def close(self) -> None:
        """Flush and let go; bounded in time."""
        ...
