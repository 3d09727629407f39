"""The signals service over any Log: what the embedded mode, the simulator and tests run. On Kafka, `app` does the same with Faust.

Order of work per batch: specs, records, windows durable on signals.v1; offsets are committed now and then, behind the lookback.
A restart re-reads from there and emits only what is newer than the newest window of each service.
"""

from __future__ import annotations

import asyncio
from typing import Final

from heteroscale.bus.log import Member, TopicPartition
from heteroscale.contracts.errors import Stale
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime.context import Context
from heteroscale.runtime.settings import Switch
from heteroscale.runtime.ticker import Ticker
from heteroscale.signals.holdings import Holdings
from heteroscale.signals.settings import SignalsSettings

CONDITION: Final = "signals"


def group_of(prefix: str) -> str:
    """The consumer group of all signals workers of a prefix."""
    return f"{prefix}.signals"


async def serve(context: Context, settings: SignalsSettings) -> None:
    """Run until `context.stop` is set. Raises Retryable when the log goes away: a new start rebuilds everything from it."""
    worker = _Worker(context, settings)
    try:
        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(worker.tick(), name="ticker")
            try:
                await worker.run()
            finally:
                ticking.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from group
    finally:
        await worker.close()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error itself: those who supervise tell errors apart by type."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


class _Worker:
    """One member of the group."""

    def __init__(self, context: Context, settings: SignalsSettings) -> None:
        self._context = context
        self._settings = settings
        self._holdings = Holdings(context)
        self._ticker = Ticker(context.log, context.prefix, registry=context.metrics)
        self._member: Member | None = None
        self._committed: dict[TopicPartition, int] = {}

    async def tick(self) -> None:
        """Tick into what is held, if that is ours to do."""
        if self._settings.ticker is Switch.ON:
            await self._ticker.run(self._context.stop)

    async def run(self) -> None:
        """Join, then batch by batch."""
        self._context.health.waiting(CONDITION, "the topics and the specs")
        await self._holdings.check()
        member = self._member = await self._context.log.join(
            group_of(self._context.prefix),
            [topic_name(self._context.prefix, Topic.TELEMETRY)],
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
        )
        self._context.health.holds(CONDITION)
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._settings.commit_every_ms / 1_000
        while not self._context.stop.is_set():
            records = await member.poll(timeout_ms=self._settings.poll_ms, records_max=self._settings.records_max)
            await self._holdings.handle(records)
            if loop.time() >= due_s:
                due_s = loop.time() + self._settings.commit_every_ms / 1_000
                await self._commit(member)
        await self._commit(member)

    async def close(self) -> None:
        """Leave the group."""
        if self._member is not None:
            await self._member.close()
        await self._holdings.close()

    async def _on_assigned(self, held: frozenset[TopicPartition]) -> None:
        await self._holdings.take(at.partition for at in held)
        self._ticker.hold(self._holdings.held)

    async def _on_revoked(self, held: frozenset[TopicPartition]) -> None:
        self._holdings.drop([at.partition for at in held])
        self._committed = {}
        self._ticker.hold(self._holdings.held)

    async def _commit(self, member: Member) -> None:
        """Commit what has moved on. Partitions that went to somebody else meanwhile are theirs to commit."""
        offsets = {at: offset for at, offset in self._holdings.safe_offsets().items() if offset > self._committed.get(at, -1)}
        offsets = {at: offset for at, offset in offsets.items() if at in member.assignment()}
        if not offsets:
            return
        try:
            await member.commit(offsets)
        except Stale:
            return
        self._committed |= offsets
