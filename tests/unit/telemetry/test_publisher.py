"""The publisher SDK on a log that misbehaves: it must cost the engine nothing but a few microseconds."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from heteroscale.bus.log import Entry, Log
from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Broken, Retryable
from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples
from heteroscale.telemetry import publisher_buffer
from heteroscale.telemetry.publisher import AsyncPublisher, Publisher, PublisherLimits, PublisherSettings
from heteroscale.telemetry.publisher_buffer import Buffer
from heteroscale.telemetry.publisher_histogram import LatencyHistogram

SETTINGS = PublisherSettings(prefix="p")
LIMITS = PublisherLimits(linger_ms=5)


class FakeLog(MemoryLog):
    """Takes appends, or does what it is told to instead."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.error: Exception | None = None
        self.delay_s = 0.0
        self.closed = False

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """As told."""
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        self.entries += entries
        return [len(self.entries)] * len(entries)

    async def close(self) -> None:
        """Remembered."""
        self.closed = True

    @property
    def samples(self) -> list[InstanceSample]:
        """What has arrived."""
        return [sample for entry in self.entries for sample in codec.decode(Samples, entry.value or b"").samples]


def sample(n: int = 0, instance: str = "i", **fields: Any) -> InstanceSample:
    return InstanceSample(instance=instance, role="decode", state=EngineState.SERVING, at_ms=1_000 + n, generation_tokens=n, **fields)


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def opened(log: FakeLog, **given: Any) -> Publisher:
    return Publisher("chat", SETTINGS, log=lambda: log, **({"limits": LIMITS} | given))


def test_samples_arrive_in_order_and_in_batches() -> None:
    """Every sample once, in order, keyed by service, stamped with the newest instant of its record, with its layouts."""
    log = FakeLog()
    layouts = {"ttft": [0.1, 0.5]}
    with opened(log, source="agent", layouts=layouts) as publisher:
        for n in range(1_200):
            assert publisher.publish(sample(n))
    assert [*range(1_200)] == [one.generation_tokens for one in log.samples]
    assert len(log.entries) <= 20
    first = codec.decode(Samples, log.entries[0].value or b"")
    assert ("chat", "agent", layouts) == (first.service, first.source, first.layouts)
    assert (b"chat", "p.telemetry.v1", first.samples[-1].at_ms) == (log.entries[0].key, log.entries[0].topic, log.entries[0].timestamp_ms)
    stats = publisher.stats
    assert (1_200, 1_200, 0, 0) == (stats.published, stats.sent, stats.dropped, stats.buffered)
    assert log.closed


def test_while_the_log_is_away_the_oldest_are_dropped_and_counted() -> None:
    """Memory stays bounded; when the log is back the newest samples arrive, and the counts add up."""
    log = FakeLog()
    log.error = Retryable("away")
    limits = PublisherLimits(linger_ms=1, buffer_bytes_max=200_000, batch_samples_max=10)
    publisher = opened(log, limits=limits)
    publisher.publish(sample(0))
    until(lambda: publisher.stats.failures > 0)
    for n in range(1, 5_000):
        publisher.publish(sample(n))
    stats = publisher.stats
    assert stats.dropped > 3_000
    assert stats.buffered * 200 < 200_000
    assert stats.last_error == "Retryable: away"
    log.error = None
    end = publisher.close()
    assert [*range(5_000 - stats.buffered, 5_000)] == [one.generation_tokens for one in log.samples][1:]
    assert end.published == end.sent + end.dropped
    assert 0 == end.buffered


@pytest.mark.parametrize("error", [Broken("no such topic"), RuntimeError("a bug in a client"), OSError("no route")])
def test_no_failure_of_the_log_reaches_the_engine(error: Exception) -> None:
    """Whatever append raises, publish keeps working and delivery goes on when it works again."""
    log = FakeLog()
    log.error = error
    publisher = opened(log)
    assert publisher.publish(sample(1))
    until(lambda: publisher.stats.failures > 0)
    log.error = None
    assert publisher.publish(sample(2))
    assert 2 == publisher.close().sent


def test_publishing_does_not_wait_for_a_slow_log() -> None:
    """A log that takes seconds for an append costs the engine nothing, and closing ends within its limit."""
    log = FakeLog()
    log.delay_s = 30.0
    publisher = opened(log)
    began = time.monotonic()
    for n in range(2_000):
        publisher.publish(sample(n))
    assert time.monotonic() - began < 1.0
    began = time.monotonic()
    stats = publisher.close(0.3)
    assert time.monotonic() - began < 3.0
    assert (2_000, 0) == (stats.dropped, stats.sent)
    assert not publisher.publish(sample(1)), "a closed publisher takes nothing"


def test_what_cannot_be_encoded_is_refused_and_counted() -> None:
    """An object in place of a number is the engine's mistake, not its end; NaN is absent."""
    log = FakeLog()
    publisher = opened(log)
    assert not publisher.publish(sample(1, running=object()))
    assert publisher.publish(sample(2, kv_usage=float("nan")))
    stats = publisher.close()
    assert (1, 1) == (stats.refused, stats.sent)
    assert [None] == [one.kv_usage for one in log.samples]


def test_many_threads_may_publish() -> None:
    """Nothing is lost or doubled, and one thread delivers."""
    log = FakeLog()
    publisher = opened(log)
    names = [f"t{n}" for n in range(8)]
    threads = [threading.Thread(target=lambda name=name: [publisher.publish(sample(n, name)) for n in range(300)]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == sum(thread.name == "heteroscale-publisher" for thread in threading.enumerate())
    assert 2_400 == publisher.close().sent
    for name in names:
        assert [*range(300)] == [one.generation_tokens for one in log.samples if one.instance == name]


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_engine_publishes_for_itself() -> None:
    """The child starts a thread of its own and does not deliver what the parent holds."""
    log = FakeLog()
    publisher = opened(log)
    publisher.publish(sample(1))
    child = os.fork()
    if child == 0:
        good = publisher.publish(sample(2)) and publisher.close(2.0).sent == 1
        os._exit(0 if good else 1)
    _, status = os.waitpid(child, 0)
    assert 0 == os.waitstatus_to_exitcode(status)
    assert 1 == publisher.close().sent


async def test_the_asyncio_publisher_does_the_same_without_a_thread() -> None:
    """Delivery in a task, an outage waited out, a bounded close."""
    log = FakeLog()
    log.error = Retryable("away")
    async with AsyncPublisher("chat", SETTINGS, limits=LIMITS, log=lambda: log) as publisher:
        publisher.publish(sample(1))
        while not publisher.stats.failures:
            await asyncio.sleep(0.005)
        log.error = None
        publisher.publish(sample(2), service="other")
    assert [(b"chat", 1), (b"other", 1)] == [(entry.key, len(codec.decode(Samples, entry.value or b"").samples)) for entry in log.entries]
    assert 0 == sum(thread.name == "heteroscale-publisher" for thread in threading.enumerate())


async def test_an_asyncio_publisher_that_was_never_started_closes_at_once() -> None:
    """No task, no wait."""
    publisher = AsyncPublisher("chat", SETTINGS, log=_no_log)
    publisher.publish(sample(1))
    assert 1 == (await publisher.close()).buffered


def _no_log() -> Log:
    raise AssertionError("nobody asked for a log")


def test_a_buffer_splits_records_by_service_and_layouts() -> None:
    """Samples of one record share both; order within each is kept; a sample above the whole bound is dropped itself."""
    buffer = Buffer("s", bytes_max=100_000, batch_samples_max=3, batch_bytes_max=10_000)
    one, two = publisher_buffer.encode_layouts({"ttft": [1]}), publisher_buffer.encode_layouts({"ttft": [2]})
    for n, (service, layouts) in enumerate([("a", one), ("b", one), ("a", two), ("a", one), ("a", one), ("a", one)]):
        assert 0 == buffer.put(publisher_buffer.hold(service, sample(n), layouts))
    taken = []
    while (batch := buffer.take()) is not None:
        record = codec.decode(Samples, batch.value)
        taken.append((batch.service, record.layouts["ttft"][0], [one.generation_tokens for one in record.samples]))
    assert [("a", 1.0, [0, 3, 4]), ("b", 1.0, [1]), ("a", 2.0, [2]), ("a", 1.0, [5])] == taken
    assert 0 == buffer.bytes
    assert 1 == buffer.put(publisher_buffer.hold("a", sample(1, "x" * 200_000), one))
    assert 0 == len(buffer)


def test_a_latency_histogram_counts_each_observation_once() -> None:
    """An observation on an edge belongs to the bucket below it; the last bucket is +Inf; edges must ascend."""
    histogram = LatencyHistogram("tbt", [0.1, 0.2])
    for seconds in (0.05, 0.1, 0.15, 0.3):
        histogram.observe(seconds)
    histogram.observe(1.0, times=2)
    snapshot = histogram.snapshot()
    assert ("tbt", [2, 1, 3]) == (snapshot.layout, snapshot.counts)
    assert pytest.approx(2.6) == snapshot.sum_s
    with pytest.raises(ValueError, match="ascend"):
        LatencyHistogram("tbt", [0.2, 0.1])
