"""A member of a Kafka consumer group whose hooks run inside its own `poll`.

aiokafka calls its rebalance listener from a background task. The listener here only hands the news over: a revocation waits
(within the rebalance deadline) until the caller's next poll has run `on_revoked`; a new assignment waits for that poll
without limit. So hooks are never concurrent with the caller's work, and a caller that is too slow finds its commits Stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.structs import TopicPartition as KafkaPartition

from heteroscale.bus import kafka_client, kafka_reader
from heteroscale.bus.kafka_client import bounded
from heteroscale.bus.log import AssignedHook, Record, RevokedHook, TopicPartition
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.errors import Broken, Stale

HEARTBEAT_MS: Final = 500  # how soon a member learns of a rebalance
SLICE_MS: Final = 50  # how soon a waiting poll notices one
REJOIN_SLACK_MS: Final = 5_000  # from giving up to asking for a place again
POLL_GAP_MAX_MS: Final = 300_000  # a caller that does not poll for so long is hung; its partitions go to the others


@dataclass(frozen=True, slots=True)
class Membership:
    """What a member joins with."""

    group: str
    topics: tuple[str, ...]
    on_assigned: AssignedHook | None = None
    on_revoked: RevokedHook | None = None


class _News(ConsumerRebalanceListener):
    """What the background task has told, until a poll takes note of it."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self.changed = asyncio.Event()
        self.revoked = False
        self.assigned: frozenset[TopicPartition] | None = None
        self._let_go = asyncio.Event()

    async def on_partitions_revoked(self, revoked: set[KafkaPartition]) -> None:
        """Hold the rebalance until the caller has let go, or the deadline is over."""
        self.assigned = None
        if not revoked:
            return
        self._let_go.clear()
        self.revoked = True
        self.changed.set()
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._let_go.wait()
        except TimeoutError:
            pass  # the caller learns of it at its next poll; until then its commits are Stale

    async def on_partitions_assigned(self, assigned: set[KafkaPartition]) -> None:
        """Leave the new assignment for the next poll."""
        self.assigned = frozenset(TopicPartition(at.topic, at.partition) for at in assigned)
        self.changed.set()

    def let_go(self) -> None:
        """The caller holds nothing any more."""
        self.revoked = False
        self._let_go.set()


class KafkaMember:
    """A Member on Kafka."""

    def __init__(self, settings: BusSettings, membership: Membership) -> None:
        self._settings = settings
        self._membership = membership
        self._limit_ms = settings.request_timeout_ms
        self._holding: frozenset[TopicPartition] = frozenset()
        self._positions: dict[TopicPartition, int] = {}
        self._news = _News(settings.rebalance_deadline_ms / 1_000)
        self._consumer: AIOKafkaConsumer | None = None
        self._closed = False

    async def start(self) -> None:
        """Connect and ask for a place in the group. Raises Retryable."""
        rebalance_ms = self._settings.rebalance_deadline_ms + REJOIN_SLACK_MS
        reading = kafka_reader.consumer(
            self._settings,
            group_id=self._membership.group,
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=self._settings.session_timeout_ms,
            heartbeat_interval_ms=HEARTBEAT_MS,
            rebalance_timeout_ms=rebalance_ms,
            max_poll_interval_ms=POLL_GAP_MAX_MS,
            # a join is answered when all have let go: the client must wait for longer than that
            request_timeout_ms=max(self._limit_ms, rebalance_ms + REJOIN_SLACK_MS),
        )
        try:
            await kafka_client.connected(reading.start(), self._settings)
            reading.subscribe(list(self._membership.topics), listener=self._news)
        except BaseException:
            await kafka_reader.discard(reading)
            raise
        self._consumer = reading

    async def poll(self, *, timeout_ms: int, records_max: int = 5_000) -> list[Record]:
        """Next records, waiting at most `timeout_ms` for the first; rebalances take place in here. Raises Retryable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1_000
        while True:
            reading = self._reading()
            await self._follow(reading)
            left_ms = max(0, round((deadline - loop.time()) * 1_000))
            records = await self._fetch(reading, min(left_ms, SLICE_MS), records_max)
            if records or left_ms <= 0:
                return records

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions it holds now."""
        return self._holding

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to be returned, per partition."""
        return dict(self._positions)

    def lag(self) -> dict[TopicPartition, int]:
        """Records behind the end, as of the last fetch."""
        return {} if self._consumer is None else kafka_reader.lag_of(self._consumer, self._positions)

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Go on from `offset`. Raises Broken for a partition that is not held."""
        if at not in self._positions:
            raise Broken(f"{at} is not read here")
        self._positions[at] = offset
        if KafkaPartition(*at) in self._reading().assignment():
            self._reading().seek(KafkaPartition(*at), offset)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit next offsets. Raises Stale when a partition went to somebody else, Retryable when the log is away."""
        reading = self._reading()
        for at in offsets:
            if at not in self._holding or self._news.assigned is not None:
                raise Stale(f"{at} is no longer held by this member of {self._membership.group}")
        if offsets:
            native = {KafkaPartition(*at): offset for at, offset in offsets.items()}
            await bounded(reading.commit(native), self._limit_ms, f"committing offsets of {self._membership.group}")

    async def committed(self, at: TopicPartition) -> int | None:
        """The group's committed next offset, or null."""
        found: int | None = await bounded(
            self._reading().committed(KafkaPartition(*at)), self._limit_ms, f"looking up offsets of {self._membership.group}"
        )
        return found

    async def close(self) -> None:
        """Give up what it holds and leave the group."""
        if self._closed or self._consumer is None:
            return
        try:
            await self._give_up()
        finally:
            self._closed = True
            reading, self._consumer = self._consumer, None
            await kafka_reader.discard(reading)

    def _reading(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise Broken("poll after close")
        return self._consumer

    async def _follow(self, reading: AIOKafkaConsumer) -> None:
        """Bring the caller's view up to the group's."""
        while self._news.revoked or self._news.assigned is not None:
            try:
                await self._give_up()
            finally:
                self._news.let_go()
            if self._news.assigned is not None:
                await self._take_over(reading, self._news.assigned)

    async def _give_up(self) -> None:
        """Tell the caller, who may still commit; then nothing is held, whatever the hook did."""
        try:
            if self._holding and self._membership.on_revoked is not None:
                await self._membership.on_revoked(self._holding)
        finally:
            self._holding = frozenset()
            self._positions = {}

    async def _take_over(self, reading: AIOKafkaConsumer, granted: frozenset[TopicPartition]) -> None:
        """Find the positions, tell the caller, who may choose others. What raises is tried again at the next poll."""
        positions = {}
        for at in sorted(granted):
            positions[at] = await bounded(reading.position(KafkaPartition(*at)), self._limit_ms, f"looking up the position in {at}")
            if self._news.assigned is not granted:
                return  # overtaken by another rebalance
        self._holding, self._news.assigned = granted, None
        chosen: Mapping[TopicPartition, int] | None = None
        try:
            if self._membership.on_assigned is not None:
                chosen = await self._membership.on_assigned(granted)
        except BaseException:
            self._holding = frozenset()
            if self._news.assigned is None and not self._news.revoked:
                self._news.assigned = granted
            raise
        self._positions = positions
        for at, offset in sorted((chosen or {}).items()):
            if at in granted:
                self.seek(at, offset)

    async def _fetch(self, reading: AIOKafkaConsumer, timeout_ms: int, records_max: int) -> list[Record]:
        if not self._holding or self._news.revoked:  # aiokafka's own wait would have no limit
            self._news.changed.clear()
            if not self._news.revoked and self._news.assigned is None:
                await _wait(self._news.changed, timeout_ms)
            return []
        limit_ms = timeout_ms + self._limit_ms
        fetched = await bounded(reading.getmany(timeout_ms=timeout_ms, max_records=records_max), limit_ms, "reading")
        if self._news.assigned is not None:  # they belong to an assignment that the caller has not seen
            for at, batch in fetched.items():
                reading.seek(at, batch[0].offset)
            return []
        if fetched:
            for at, batch in fetched.items():
                self._positions[TopicPartition(at.topic, at.partition)] = batch[-1].offset + 1
        elif behind := [at for at, lag in self.lag().items() if lag]:
            self._positions |= await kafka_reader.refreshed(reading, behind)
        return kafka_reader.records_of(fetched)


async def _wait(event: asyncio.Event, timeout_ms: int) -> None:
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            await event.wait()
    except TimeoutError:
        pass
