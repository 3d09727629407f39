"""Appending to Kafka: idempotent, acks=all, lz4; one producer at a time, rebuilt after a state that it cannot leave.

A batch whose outcome is unknown (no answer in time) is waited for before anything else is appended, so that order holds; the
same entries handed in again take its result instead of being written twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.structs import RecordMetadata

from heteroscale.bus import kafka_client, partitioning
from heteroscale.bus.kafka_client import bounded, translated
from heteroscale.bus.log import Entry
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.errors import Broken, Rejected, Retryable

RECORD_BYTES_MAX: Final = 8 * 1024 * 1024  # before compression; the broker's own limit counts compressed batches
BATCH_BYTES: Final = 256 * 1024
PATIENCE: Final = 3  # unanswered waits for a batch in doubt before its producer is given up
_OVERHEAD_BYTES: Final = 128  # headers of a record, generously


@dataclass(slots=True)
class _Batch:
    """Entries on their way. A partition's records are acknowledged in order, so its last future tells of all."""

    entries: tuple[Entry, ...]
    futures: list[asyncio.Future[RecordMetadata]] = field(default_factory=list)
    lasts: dict[tuple[str, int], asyncio.Future[RecordMetadata]] = field(default_factory=dict)
    waits: int = 0

    async def over(self, limit_s: float) -> bool:
        """Whether the outcome is known within the limit."""
        if self.lasts:
            await asyncio.wait(self.lasts.values(), timeout=limit_s)
        return all(future.done() for future in self.futures)

    def error(self) -> Exception | None:
        """The first error of a batch whose outcome is known; all are seen."""
        errors = [future.exception() for future in self.futures]
        return next((error for error in errors if isinstance(error, Exception)), None)

    def offsets(self) -> list[int]:
        """Of a batch that was written."""
        return [future.result().offset for future in self.futures]

    def abandon(self) -> None:
        """Nobody may ask for the outcome any more; what comes is seen all the same."""
        for future in self.futures:
            future.add_done_callback(_look_at)


class KafkaProducer:
    """Appends batches in order. Safe for several tasks."""

    def __init__(self, settings: BusSettings) -> None:
        self._settings = settings
        self._limit_ms = settings.request_timeout_ms
        self._live: AIOKafkaProducer | None = None
        self._entry = asyncio.Lock()  # one batch enters at a time, so that batches never interleave
        self._doubts: list[_Batch] = []

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Offsets in the order of `entries`, once durable. Raises Retryable (outcome unknown), Rejected, Broken (misuse)."""
        for entry in entries:
            _check(entry)
        if not entries:
            return []
        async with self._entry:
            settled = await self._settle(tuple(entries))
            if settled is not None:
                return settled
            producer = await self._connected()
            batch = await self._enter(producer, tuple(entries))
        try:
            known = await batch.over(self._limit_ms / 1_000)
        except asyncio.CancelledError:
            batch.abandon()
            raise
        if not known:
            batch.abandon()
            self._doubts.append(batch)
            raise Retryable(f"append to {entries[0].topic}: no answer within {self._limit_ms} ms")
        error = batch.error()
        if error is not None:
            await self._give_up(producer)  # a refused batch leaves a gap in the sequence that no later one can pass
            raise translated(error, f"append to {entries[0].topic}") from error
        return batch.offsets()

    async def close(self) -> None:
        """Flush for a while, then let go."""
        producer, self._live = self._live, None
        if producer is None:
            return
        with contextlib.suppress(TimeoutError, kafka_errors.KafkaError, OSError):
            async with asyncio.timeout(kafka_client.CLOSE_LIMIT_S):
                await producer.flush()
        await _discard(producer)

    async def _settle(self, entries: tuple[Entry, ...]) -> list[int] | None:
        """Wait for batches in doubt; the offsets of `entries` if they were one of them. Raises Retryable."""
        while self._doubts:
            doubt = self._doubts[0]
            known = await doubt.over(self._limit_ms / 1_000)
            if not known and doubt.waits < PATIENCE:
                doubt.waits += 1
                raise Retryable(f"append to {doubt.entries[0].topic}: an earlier batch is still under way")
            self._doubts.remove(doubt)
            if not known or doubt.error() is not None:
                if self._live is not None:
                    await self._give_up(self._live)
            elif doubt.entries == entries:
                return doubt.offsets()
        return None

    async def _connected(self) -> AIOKafkaProducer:
        if self._live is not None:
            return self._live
        producer = AIOKafkaProducer(
            **kafka_client.connection(self._settings),
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=self._settings.linger_ms,
            max_batch_size=BATCH_BYTES,
            max_request_size=RECORD_BYTES_MAX,
        )
        try:
            await kafka_client.connected(producer.start(), self._settings)
        except BaseException:
            await _discard(producer)
            raise
        self._live = producer
        return producer

    async def _enter(self, producer: AIOKafkaProducer, entries: tuple[Entry, ...]) -> _Batch:
        """Hand the entries to the producer's queue, in order."""
        counts: dict[str, int] = {}
        for topic in dict.fromkeys(entry.topic for entry in entries):
            counts[topic] = len(await bounded(producer.partitions_for(topic), self._limit_ms, f"looking up {topic}"))
        places = [(entry.topic, _place(entry, counts[entry.topic])) for entry in entries]
        batch = _Batch(entries)
        try:
            for entry, place in zip(entries, places, strict=True):
                future = await producer.send(entry.topic, entry.value, entry.key, place[1], entry.timestamp_ms)
                batch.futures.append(future)
                batch.lasts[place] = future
        except (kafka_errors.KafkaError, OSError) as error:
            batch.abandon()
            await self._give_up(producer)
            raise translated(error, f"append to {entries[0].topic}") from error
        except asyncio.CancelledError:
            batch.abandon()
            raise
        return batch

    async def _give_up(self, producer: AIOKafkaProducer) -> None:
        """Drop this producer with all it holds; the next append starts a new one."""
        if self._live is producer:
            self._live = None
            await _discard(producer)


def _check(entry: Entry) -> None:
    """Raises Broken for an entry that no log can take, Rejected (`too_large`) for one that this one cannot."""
    if entry.key is None and entry.value is None:
        raise Broken(f"{entry.topic}: a record needs a key or a value")
    if entry.key is None and entry.partition is None:
        raise Broken(f"{entry.topic}: a record without a key needs a partition")
    if entry.timestamp_ms < 0:
        raise Broken(f"{entry.topic}: a timestamp is milliseconds since 1970, not {entry.timestamp_ms}")
    size = len(entry.key or b"") + len(entry.value or b"") + _OVERHEAD_BYTES
    if size > RECORD_BYTES_MAX:
        raise Rejected("too_large", f"a record of {size} bytes is above the limit of {RECORD_BYTES_MAX}", entry.topic)


def _place(entry: Entry, partitions: int) -> int:
    if entry.partition is None:
        return partitioning.partition_of(entry.key or b"", partitions)
    if not 0 <= entry.partition < partitions:
        raise Broken(f"{entry.topic} has partitions 0 to {partitions - 1}, not {entry.partition}")
    return entry.partition


def _look_at(future: asyncio.Future[RecordMetadata]) -> None:
    """Nobody may wait for this future any more; its exception has been seen all the same."""
    if not future.cancelled():
        future.exception()


async def _discard(producer: AIOKafkaProducer) -> None:
    """Close without delivering what is left: its futures fail, its tasks end, its connections close."""
    producer._message_accumulator.fail_all(kafka_errors.ProducerClosed())  # noqa: SLF001 - stop() alone waits for delivery without limit
    await kafka_client.stopped(producer.stop(), producer.client)
