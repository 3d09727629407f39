"""The log when its broker pauses, dies and comes back: nothing lost, nothing out of order, nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from heteroscale.bus.kafka import KafkaLog
from heteroscale.bus.log import Entry, Record, TopicLayout, TopicPartition
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.servers import chain, kafka, process
from heteroscale.servers.launch import Place
from heteroscale.servers.ledger import Entry as Server
from support import capabilities

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

AtEnd = list[Callable[[], Awaitable[None]]]
AT = TopicPartition("t", 0)
LIMIT_MS = 1_500


class Broker:
    """A broker of this test's own, that may be paused, killed and started again on the same data and port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = self._start(None)
        self.address = self._server.address

    def _start(self, port: int | None) -> Server:
        return kafka.start(Place(port=port, folder=self._folder, owner=process.myself()), lambda _line: None)

    def signal(self, number: signal.Signals) -> None:
        """To this broker's process alone."""
        assert self._server.process is not None
        os.kill(self._server.process.pid, number)

    def kill(self) -> None:
        """Gone at once, its data left as it was."""
        chain.end(self._server, delete_data=False)

    def restart(self) -> None:
        """Up again where it was."""
        self._server = self._start(self._server.port)

    def end(self) -> None:
        """Gone, with its data."""
        chain.end(self._server, delete_data=True)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for this module; it is always running and awake between tests."""
    why = kafka.unavailable()
    native = capabilities.look("native-kafka", lambda: (why is None, why or "Java"))
    if not native.available:
        capabilities.missing(native)
    started = Broker(tmp_path_factory.mktemp("broker") / "kafka")
    yield started
    started.end()


def log_on(broker: Broker) -> KafkaLog:
    """A log with a short limit."""
    return KafkaLog(BusSettings(kafka=broker.address, request_timeout_ms=LIMIT_MS))


def entries(*names: str) -> list[Entry]:
    """Entries of one partition."""
    return [Entry("t", b"k", name.encode(), 1_000) for name in names]


async def fresh_topic(log: KafkaLog) -> None:
    """The topic, empty."""
    await log.delete_topics(["t"])
    await log.create_topics([TopicLayout("t", 1, {})])


async def everything(log: KafkaLog) -> list[str]:
    """All values, in order of their offsets."""
    end = (await log.end_offsets([AT]))[AT]
    reader = log.reader({AT: 0})
    records: list[Record] = []
    async with asyncio.timeout(30):
        while len(records) < end:
            records += await reader.poll(timeout_ms=500)
    await reader.close()
    return [(record.value or b"").decode() for record in records]


async def insist(log: KafkaLog, batch: list[Entry]) -> list[int]:
    """Append, trying again while the log is away, as a service does."""
    async with asyncio.timeout(40):
        while True:
            try:
                return await log.append(batch)
            except Retryable:
                await asyncio.sleep(0.1)


async def test_a_paused_broker_is_waited_for_and_nothing_is_written_twice(broker: Broker, at_end: AtEnd) -> None:
    """Append answers Retryable within its limit; the same entries again take the result of the first try; order holds."""
    log = log_on(broker)
    at_end.append(log.close)
    await fresh_topic(log)
    assert [0] == await log.append(entries("a"))
    loop = asyncio.get_running_loop()
    broker.signal(signal.SIGSTOP)
    try:
        began = loop.time()
        with pytest.raises(Retryable):
            await log.append(entries("b", "c"))
        assert loop.time() - began < 2 * LIMIT_MS / 1_000
        with pytest.raises(Retryable, match="under way"):
            await log.append(entries("b", "c"))
    finally:
        broker.signal(signal.SIGCONT)
    assert [1, 2] == await insist(log, entries("b", "c"))
    assert [3] == await insist(log, entries("d"))
    assert ["a", "b", "c", "d"] == await everything(log)
    await log.close()


async def test_a_killed_broker_comes_back_and_everybody_goes_on(broker: Broker, at_end: AtEnd) -> None:
    """A producer, a reader and a group member live through kill -9 and a restart, and miss no record."""
    log = log_on(broker)
    at_end.append(log.close)
    await fresh_topic(log)
    await log.append(entries("a"))
    reader = log.reader({AT: 0})
    assert 1 == len(await reader.poll(timeout_ms=10_000))
    member = await log.join("survivors", ["t"])
    async with asyncio.timeout(30):
        while not await member.poll(timeout_ms=500):
            pass
    await member.commit({AT: 1})
    broker.kill()
    with pytest.raises(Retryable):
        await log.append(entries("b"))
    with pytest.raises(Retryable):
        await log.describe_topics([])
    broker.restart()
    await insist(log, entries("b"))
    await insist(log, entries("c"))
    found = await everything(log)
    assert ["a", "b", "c"] == list(dict.fromkeys(found))
    for reading in (reader, member):
        seen: list[Record] = []
        async with asyncio.timeout(40):
            while len(seen) < len(found) - 1:
                seen += await reading.poll(timeout_ms=500)
        assert found[1:] == [(record.value or b"").decode() for record in seen]
    assert 1 == await member.committed(AT)
    await member.close()
    await reader.close()
    await log.close()


async def test_a_refused_batch_does_not_stop_what_comes_after(broker: Broker, at_end: AtEnd) -> None:
    """A record that the broker refuses is Rejected with a code, and the next append works: the producer was rebuilt."""
    log = log_on(broker)
    at_end.append(log.close)
    await fresh_topic(log)
    await log.create_topics([TopicLayout("small", 1, {"max.message.bytes": "200"})])
    await log.append(entries("a"))
    await log.append([Entry("small", b"k", b"v", 1_000)])
    noise = bytes((n * n * 31 + n // 3) % 251 for n in range(5_000))
    with pytest.raises(Rejected) as refused:
        await log.append([Entry("small", b"k", noise, 1_000)])
    assert "too_large" == refused.value.code
    assert [1] == await log.append([Entry("small", b"k", b"v", 1_000)])
    assert [1] == await log.append(entries("b"))
    await log.close()


async def test_nobody_is_left_behind_when_the_broker_is_away_at_the_end(broker: Broker, at_end: AtEnd) -> None:
    """Closing a producer, a reader and a member while the broker does not answer ends within the limits."""
    log = log_on(broker)
    at_end.append(log.close)
    await fresh_topic(log)
    await log.append(entries("a"))
    member = await log.join("leavers", ["t"])
    reader = log.reader({AT: 0})
    await reader.poll(timeout_ms=5_000)
    broker.signal(signal.SIGSTOP)
    try:
        with pytest.raises(Retryable):
            await log.append(entries("b"))
        async with asyncio.timeout(40):
            await member.close()
            await reader.close()
            await log.close()
    finally:
        broker.signal(signal.SIGCONT)
