"""The ticker: time as records."""

from __future__ import annotations

import asyncio

import pytest

from heteroscale.bus import catalogue, scan
from heteroscale.bus.log import Log
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Retryable
from heteroscale.contracts.telemetry import Samples, Tick
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import metrics, ticker
from heteroscale.runtime.clock import ManualClock
from heteroscale.runtime.metrics import Metrics
from heteroscale.runtime.ticker import Ticker

PREFIX = "memory"
TELEMETRY = topic_name(PREFIX, Topic.TELEMETRY)


async def ticks(log: Log) -> dict[int, list[int]]:
    """Instants of all ticks per partition; each is stamped with itself and has no key."""
    found: dict[int, list[int]] = {}
    async for batch in scan.to_end(log, await scan.partitions_of(log, [TELEMETRY])):
        for record in batch:
            tick = codec.decode(Samples | Tick, record.value or b"")  # type: ignore[arg-type]  # a union is a type to msgspec
            assert isinstance(tick, Tick)
            assert (tick.at_ms, None) == (record.timestamp_ms, record.key)
            found.setdefault(record.partition, []).append(tick.at_ms)
    return found


@pytest.mark.parametrize(("now_ms", "due_ms"), [(0, 1_000), (999, 1_000), (1_000, 2_000), (1_500, 2_000)])
def test_ticks_are_due_at_whole_seconds(now_ms: int, due_ms: int) -> None:
    """The next whole second, never the present one."""
    assert due_ms == ticker.due_after(now_ms)


async def test_ticks_go_to_the_partitions_held_and_follow_changes(memory_log: Log) -> None:
    """None before any is held; the set is replaced at run time; time never goes back."""
    await catalogue.create(memory_log, PREFIX, topics=[Topic.TELEMETRY])
    registry = Metrics()
    source = Ticker(memory_log, PREFIX, clock=ManualClock(), registry=registry)
    await source.tick(1_000)
    source.hold([3, 1])
    await source.tick(2_000)
    source.hold([1])
    await source.tick(3_000)
    await source.tick(3_000)
    await source.tick(2_500)
    assert {1: [2_000, 3_000], 3: [2_000]} == await ticks(memory_log)
    assert 3 == registry.value(metrics.TICKS)


async def test_it_ticks_until_it_is_stopped(memory_log: Log) -> None:
    """One tick a due time, on its own clock, and an end when asked for."""
    await catalogue.create(memory_log, PREFIX, topics=[Topic.TELEMETRY])
    clock = ManualClock(999)
    source = Ticker(memory_log, PREFIX, clock=clock)
    source.hold([0])
    stop = asyncio.Event()
    running = asyncio.create_task(source.run(stop))
    async with asyncio.timeout(10):
        while {0: [1_000]} != await ticks(memory_log):
            await asyncio.sleep(0.001)
    clock.advance(1_000)
    stop.set()
    await asyncio.wait_for(running, 5)


async def test_a_log_that_is_away_leaves_ticks_out(memory_log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks missed are not made up for, and the ticker goes on."""
    await catalogue.create(memory_log, PREFIX, topics=[Topic.TELEMETRY])
    clock = ManualClock(999)
    source = Ticker(memory_log, PREFIX, clock=clock)
    source.hold([0])
    append, calls = memory_log.append, 0

    async def away(entries: object) -> list[int]:
        nonlocal calls
        calls += 1
        clock.advance(1_000)
        if calls < 3:
            raise Retryable("away")
        stop.set()
        return await append(entries)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(memory_log, "append", away)
    stop = asyncio.Event()
    await asyncio.wait_for(source.run(stop), 10)
    assert {0: [3_000]} == await ticks(memory_log)
