"""The partitions that one worker holds, whatever transports their records: an aggregator each, and what they bring about.

Owns taking a partition over (specs and newest windows first), publishing windows and dead letters, and the offsets that may be
committed. The transports are `worker` (any Log) and `app` (Faust).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Final

from heteroscale.bus import scan
from heteroscale.bus.dead_letters import Guard, limits_of
from heteroscale.bus.log import Entry, Record, TopicPartition
from heteroscale.bus.partitioning import partition_of
from heteroscale.contracts import codec, keys
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import logs, metrics
from heteroscale.runtime.context import Context
from heteroscale.runtime.metering import dead_letter_counter
from heteroscale.signals.aggregator import PartitionAggregator, Refused
from heteroscale.signals.spec_feed import SpecChange, SpecFeed
from heteroscale.signals.timeline import parameters

STAGE: Final = "signals"
NEWEST_WITHIN_MS: Final = 7_200_000  # how far back on signals.v1 a service's newest window can matter: commits lag by minutes


class Holdings:
    """Aggregators by partition of telemetry.v1."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._telemetry = topic_name(context.prefix, Topic.TELEMETRY)
        self._signals = topic_name(context.prefix, Topic.SIGNALS)
        self._guard = Guard(context.log, context.prefix, STAGE, limits=limits_of(context.bus), counter=dead_letter_counter(context.metrics))
        self._specs = SpecFeed(context.log, topic_name(context.prefix, Topic.SPECS), self._guard)
        self._aggregators: dict[int, PartitionAggregator] = {}
        self._partitions = 0
        self._windows: list[Entry] = []
        self._letters: list[tuple[Record, list[Refused]]] = []
        self._logger = logs.logger(service=STAGE)

    @property
    def held(self) -> list[int]:
        """The partitions that are ready, sorted."""
        return sorted(self._aggregators)

    async def check(self) -> None:
        """Before the first record: topics are there and keep what a restart re-reads. Raises Broken, Rejected, Retryable."""
        layouts = await self._context.log.describe_topics([self._telemetry])
        self._partitions = len(await scan.partitions_of(self._context.log, [self._telemetry]))
        await self._specs.catch_up()
        retention_ms = int(layouts[self._telemetry].config.get("retention.ms", "-1"))
        horizon_ms = max((parameters(change.spec).horizon_ms for change in self._specs.changes), default=parameters(None).horizon_ms)
        if 0 <= retention_ms < horizon_ms:
            message = f"keeps {retention_ms} ms; a restart re-reads {horizon_ms} ms; set retention.ms to {2 * horizon_ms} or more"
            raise Rejected("retention", message, self._telemetry)

    async def take(self, partitions: Iterable[int]) -> None:
        """Take partitions over, each with an empty aggregator that skips what is on signals.v1 already."""
        await self._specs.catch_up()
        for partition in sorted(set(partitions) - set(self._aggregators)):
            aggregator = PartitionAggregator(partition, await self._newest(partition))
            for change in self._specs.changes:
                self._tell(aggregator, change)
            self._aggregators[partition] = aggregator
        self._logger.info("partitions_held", partitions=self.held)

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget partitions that somebody else may hold now."""
        for partition in partitions:
            self._aggregators.pop(partition, None)
            for gauge in (metrics.SIGNALS_TICK, metrics.SIGNALS_INSTANCES, metrics.SIGNALS_BYTES):
                self._context.metrics.forget(gauge, partition=str(partition))
            self._context.metrics.forget(metrics.BUS_LAG, topic=Topic.TELEMETRY.value, partition=str(partition))

    async def follow_specs(self) -> None:
        """Take what has come on specs.v1. Raises Retryable."""
        await self._specs.follow(self._heard)

    async def handle(self, records: Sequence[Record]) -> int:
        """Take records in and publish what they bring about; how many windows closed. Raises Retryable, Broken."""
        await self.follow_specs()
        for record in records:
            self.absorb(record)
        return await self.publish()

    def absorb(self, record: Record) -> bool:
        """Take one record in; whether there is something to publish now."""
        aggregator = self._aggregators.get(record.partition)
        if aggregator is None:
            return False
        if record.value is None:
            self._letters.append((record, [Refused(record.offset, "empty", "a record without a value", b"")]))
            return True
        if aggregator.next_offset is not None and record.offset < aggregator.next_offset:
            aggregator = self._aggregators[record.partition] = self._afresh(aggregator)
        outcome = aggregator.handle(record.offset, record.value)
        self._windows += [self._entry(window, record.partition) for window in outcome.windows]
        for window in outcome.windows:
            if window.late_samples:
                self._context.metrics.add(metrics.SIGNALS_LATE, window.late_samples)
        if outcome.refused:
            self._letters.append((record, outcome.refused))
        else:
            self._guard.passed()
        return bool(self._windows or self._letters)

    async def publish(self) -> int:
        """Make durable what was brought about; how many windows. Raises Retryable, Broken: a new start then does it again."""
        letters, self._letters = self._letters, []
        windows, self._windows = self._windows, []
        if windows:
            began_s = asyncio.get_running_loop().time()
            await self._context.log.append(windows)
            self._context.metrics.add(metrics.SIGNALS_WINDOWS, len(windows))
            self._context.metrics.observe(metrics.SIGNALS_CLOSE_SECONDS, asyncio.get_running_loop().time() - began_s)
        for record, refused in letters:
            await self._refuse(record, refused)
        return len(windows)

    def safe_offsets(self) -> dict[TopicPartition, int]:
        """Next offsets that may be committed. Also shows how far each partition is."""
        offsets: dict[TopicPartition, int] = {}
        for partition, aggregator in sorted(self._aggregators.items()):
            labels = {"partition": str(partition)}
            if aggregator.tick_ms is not None:
                self._context.metrics.set(metrics.SIGNALS_TICK, aggregator.tick_ms / 1_000, **labels)
            self._context.metrics.set(metrics.SIGNALS_INSTANCES, aggregator.instances, **labels)
            self._context.metrics.set(metrics.SIGNALS_BYTES, aggregator.bytes_held, **labels)
            safe = aggregator.safe_offset()
            if safe is not None:
                offsets[TopicPartition(self._telemetry, partition)] = safe
        return offsets

    async def show_lag(self) -> None:
        """How many records each partition has that were not taken yet. Only a figure: without the log it stays as it was."""
        taken = {TopicPartition(self._telemetry, at): each.next_offset for at, each in sorted(self._aggregators.items())}
        with contextlib.suppress(Retryable):
            ends = await self._context.log.end_offsets([at for at, offset in taken.items() if offset is not None])
            for at, end in ends.items():
                lag = end - (taken[at] or 0)
                self._context.metrics.set(metrics.BUS_LAG, lag, topic=Topic.TELEMETRY.value, partition=str(at.partition))

    async def close(self) -> None:
        """Let go of the log's readers."""
        await self._specs.close()

    def _afresh(self, old: PartitionAggregator) -> PartitionAggregator:
        """An aggregator for a partition that is being read again from further back."""
        aggregator = PartitionAggregator(old.partition, old.newest)
        for change in self._specs.changes:
            self._tell(aggregator, change)
        return aggregator

    def _entry(self, window: SignalWindow, partition: int) -> Entry:
        return Entry(self._signals, window.service.encode(), codec.encode(window), window.end_ms, partition)

    async def _refuse(self, record: Record, refused: Sequence[Refused]) -> None:
        """Dead letters for a record, or for samples of it and of earlier ones that only now proved bad."""
        by_offset: dict[int, list[Refused]] = {}
        for found in refused:
            by_offset.setdefault(found.offset, []).append(found)
        for offset, group in sorted(by_offset.items()):
            source = record if offset == record.offset else record._replace(offset=offset, key=None, value=None)
            await self._guard.refuse(source, [Rejected(each.code, each.message) for each in group], [each.payload for each in group])

    def _heard(self, change: SpecChange) -> None:
        for aggregator in self._aggregators.values():
            self._tell(aggregator, change)

    def _tell(self, aggregator: PartitionAggregator, change: SpecChange) -> None:
        if partition_of(change.service.encode(), self._partitions) == aggregator.partition:
            aggregator.learn(change.service, change.spec, change.at_ms)

    async def _newest(self, partition: int) -> dict[ServiceName, int]:
        """The end of each service's newest window on signals.v1, of the last hours of that topic."""
        at = TopicPartition(self._signals, partition)
        last = await self._last_record(at)
        if last is None:
            return {}
        found = await self._context.log.offsets_for_time({at: last.timestamp_ms - NEWEST_WITHIN_MS})
        newest: dict[ServiceName, int] = {}
        async for batch in scan.to_end(self._context.log, [at], {at: found[at] or 0}):
            for record in batch:
                service = keys.service_of(record.key)
                newest[service] = max(newest.get(service, record.timestamp_ms), record.timestamp_ms)
        return newest

    async def _last_record(self, at: TopicPartition) -> Record | None:
        begin, end = (await self._context.log.begin_offsets([at]))[at], (await self._context.log.end_offsets([at]))[at]
        if begin >= end:
            return None
        last: Record | None = None
        async for batch in scan.to_end(self._context.log, [at], {at: end - 1}):
            last = batch[-1]
        return last
