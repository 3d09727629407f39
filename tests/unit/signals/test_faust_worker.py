"""What the Faust shell adds around the partitions: a hand-over before any record, and errors that end the worker, not an event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heteroscale.bus import catalogue
from heteroscale.bus.log import Entry, Record, TopicPartition
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.partitioning import partition_of
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.errors import Broken
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.runtime import metrics
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.signals import app
from heteroscale.signals.holdings import Holdings
from heteroscale.signals.settings import SignalsSettings
from support.telemetry_lines import in_time_order, ms, steady, ticks

PREFIX = "t"
TELEMETRY = topic_name(PREFIX, Topic.TELEMETRY)
HOME = partition_of(b"chat", CATALOGUE[Topic.TELEMETRY].partitions)


class Stream:
    """What Faust hands to an agent: events, each with its message."""

    def __init__(self, messages: Sequence[SimpleNamespace]) -> None:
        self._messages = messages
        self.handed = 0

    def noack(self) -> Stream:
        """Faust's own switch; the stream itself."""
        return self

    async def events(self) -> AsyncIterator[SimpleNamespace]:
        """All messages, then nothing more for ever, as a topic that is quiet."""
        for message in self._messages:
            self.handed += 1
            yield SimpleNamespace(message=message)
        await asyncio.Event().wait()


def messages(partition: int = HOME) -> list[SimpleNamespace]:
    """Four minutes of one instance and of ticks."""
    documents = in_time_order(steady("i", 0, 240, 50), ticks(0, 240))
    values = [json.dumps(document).encode() for document in documents]
    return [
        SimpleNamespace(topic=TELEMETRY, partition=partition, offset=offset, timestamp=ms(0) / 1_000, key=b"chat", value=value)
        for offset, value in enumerate(values)
    ]


async def shell(log: MemoryLog, tmp_path: Path) -> Any:
    """The worker of one process, not started: tests speak for Faust."""
    bus = BusSettings(kafka="127.0.0.1:1", prefix=PREFIX)
    context = Context(log=log, prefix=PREFIX, health=Health(), bus=bus)
    await catalogue.create(log, PREFIX)
    found = app._FaustWorker(context, SignalsSettings(), bus, tmp_path)
    await found._holdings.check()
    return found


async def windows(log: MemoryLog) -> int:
    """How many were published."""
    place = TopicPartition(topic_name(PREFIX, Topic.SIGNALS), HOME)
    return (await log.end_offsets([place]))[place]


async def until_windows(log: MemoryLog) -> None:
    async with asyncio.timeout(10):
        while not await windows(log):
            await asyncio.sleep(0.01)


async def test_events_wait_until_their_partitions_are_taken_over(tmp_path: Path) -> None:
    """Faust hands events over while partitions are still being taken: none is used before, none is lost."""
    log = MemoryLog()
    worker = await shell(log, tmp_path)
    stream = Stream(messages())
    body = asyncio.create_task(worker._body(stream))
    await asyncio.sleep(0.05)
    assert (1, 0) == (stream.handed, await windows(log))
    await worker._on_assigned(None, [TopicPartition(TELEMETRY, HOME)])
    await until_windows(log)
    assert [message.offset for message in stream._messages][: len(worker._kept[HOME])] == [kept.offset for kept in worker._kept[HOME]]
    body.cancel()


async def test_events_wait_again_after_partitions_were_given_up(tmp_path: Path) -> None:
    """Between two assignments nothing is used, and an event of a partition that went to somebody else is left to them."""
    log = MemoryLog()
    worker = await shell(log, tmp_path)
    await worker._on_assigned(None, [TopicPartition(TELEMETRY, HOME)])
    await worker._on_revoked(None, [TopicPartition(TELEMETRY, HOME)])
    body = asyncio.create_task(worker._body(Stream(messages())))
    await asyncio.sleep(0.05)
    assert 0 == await windows(log)
    other = (HOME + 1) % CATALOGUE[Topic.TELEMETRY].partitions
    await worker._on_assigned(None, [TopicPartition(TELEMETRY, other)])
    await asyncio.sleep(0.05)
    assert (0, {other}, 0) == (await windows(log), set(worker._kept), len(worker._kept[other]))
    body.cancel()


async def test_an_error_in_the_body_ends_the_worker_with_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that Faust saw would lose the event; so it is kept for whoever runs us, and the body stands still."""
    log = MemoryLog()
    worker = await shell(log, tmp_path)
    await worker._on_assigned(None, [TopicPartition(TELEMETRY, HOME)])

    async def broken(_self: Holdings) -> int:
        raise Broken("no")

    monkeypatch.setattr(Holdings, "publish", broken)
    body = asyncio.create_task(worker._body(Stream(messages())))
    with pytest.raises(Broken, match="no"):
        async with asyncio.timeout(10):
            await worker._failed
    await asyncio.sleep(0.01)
    assert not body.done()
    body.cancel()


async def test_lag_of_what_is_held_is_shown_and_only_that(tmp_path: Path) -> None:
    """Faust consumes past the metered log, so the worker counts itself: records of its partitions that it has not taken."""
    log = MemoryLog()
    worker = await shell(log, tmp_path)
    await log.append([Entry(TELEMETRY, b"chat", message.value, ms(0), HOME) for message in messages()])
    await worker._on_assigned(None, [TopicPartition(TELEMETRY, HOME)])
    worker._holdings.absorb(Record(TELEMETRY, HOME, 6, ms(0), b"chat", messages()[6].value))
    await worker._holdings.show_lag()
    assert len(messages()) - 7 == worker._context.metrics.value(metrics.BUS_LAG, topic="telemetry.v1", partition=str(HOME))
    await worker._on_revoked(None, [TopicPartition(TELEMETRY, HOME)])
    assert b"bus_lag{" not in worker._context.metrics.page()
