"""Reading given partitions of Kafka from given positions, without a group. Connects at the first poll."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord
from aiokafka.structs import TopicPartition as KafkaPartition

from heteroscale.bus import kafka_client
from heteroscale.bus.kafka_client import bounded
from heteroscale.bus.log import Record, TopicPartition
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.errors import Broken

FETCH_WAIT_MS: Final = 100  # limit of an idle fetch; a record that arrives ends it at once
FETCH_BYTES: Final = 4 * 1024 * 1024  # a partition's share of one fetch
REFRESH_S: Final = 1.0


def consumer(settings: BusSettings, **arguments: Any) -> AIOKafkaConsumer:
    """A consumer as all of ours are: explicit commits only, earliest when there is no position."""
    return AIOKafkaConsumer(
        **(
            kafka_client.connection(settings)
            | {
                "enable_auto_commit": False,
                "auto_offset_reset": "earliest",
                "fetch_max_wait_ms": FETCH_WAIT_MS,
                "max_partition_fetch_bytes": FETCH_BYTES,
            }
            | arguments
        )
    )


def records_of(fetched: Mapping[KafkaPartition, list[ConsumerRecord[bytes | None, bytes | None]]]) -> list[Record]:
    """Our records, partition by partition."""
    return [Record(at.topic, at.partition, one.offset, one.timestamp, one.key, one.value) for at, batch in fetched.items() for one in batch]


def lag_of(reading: AIOKafkaConsumer, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Records behind the high-water mark of the last fetch, of partitions that were fetched."""
    assigned = reading.assignment()
    marks = {at: reading.highwater(KafkaPartition(*at)) for at in positions if KafkaPartition(*at) in assigned}
    return {at: max(0, mark - positions[at]) for at, mark in marks.items() if mark is not None}


async def refreshed(reading: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Positions as the fetcher has them: it may have skipped what was deleted or compacted away. Those at hand, no more."""
    positions: dict[TopicPartition, int] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFRESH_S):
            for at in partitions:
                positions[at] = await reading.position(KafkaPartition(*at))
    return positions


async def discard(reading: AIOKafkaConsumer) -> None:
    """Stop a consumer, within limits."""
    await kafka_client.stopped(reading.stop(), reading._client)  # noqa: SLF001 - stop() alone waits for answers


class KafkaReader:
    """A Reader on Kafka."""

    def __init__(self, settings: BusSettings, positions: Mapping[TopicPartition, int]) -> None:
        self._settings = settings
        self._positions = dict(positions)
        self._consumer: AIOKafkaConsumer | None = None
        self._closed = False

    async def poll(self, *, timeout_ms: int, records_max: int = 5_000) -> list[Record]:
        """Next records, waiting at most `timeout_ms` for the first. Raises Retryable while the log is away at the start."""
        if self._closed:
            raise Broken("poll after close")
        if not self._positions:
            await asyncio.sleep(timeout_ms / 1_000)
            return []
        reading = await self._started()
        limit_ms = timeout_ms + self._settings.request_timeout_ms
        fetched = await bounded(reading.getmany(timeout_ms=timeout_ms, max_records=records_max), limit_ms, "reading")
        records = records_of(fetched)
        if records:
            for at, batch in fetched.items():
                self._positions[TopicPartition(at.topic, at.partition)] = batch[-1].offset + 1
        else:
            behind = [at for at, lag in self.lag().items() if lag]
            self._positions |= await refreshed(reading, behind)
        return records

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to be returned, per partition."""
        return dict(self._positions)

    def lag(self) -> dict[TopicPartition, int]:
        """Records behind the end, as of the last fetch."""
        return {} if self._consumer is None else lag_of(self._consumer, self._positions)

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Go on from `offset`. Raises Broken for a partition that is not read."""
        if at not in self._positions:
            raise Broken(f"{at} is not read here")
        self._positions[at] = offset
        if self._consumer is not None:
            self._consumer.seek(KafkaPartition(*at), offset)

    async def close(self) -> None:
        """Let go."""
        self._closed = True
        reading, self._consumer = self._consumer, None
        if reading is not None:
            await discard(reading)

    async def _started(self) -> AIOKafkaConsumer:
        if self._consumer is not None:
            return self._consumer
        reading = consumer(self._settings)
        try:
            await kafka_client.connected(reading.start(), self._settings)
            reading.assign([KafkaPartition(*at) for at in sorted(self._positions)])
            for at, offset in self._positions.items():
                reading.seek(KafkaPartition(*at), offset)
        except BaseException:
            await discard(reading)
            raise
        self._consumer = reading
        return reading
