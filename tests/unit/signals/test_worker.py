"""The service over a log in memory: the same windows as the bare core, specs live, dead letters, restarts, a paused partition."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from msgspec.structs import replace

from heteroscale.bus import catalogue, scan
from heteroscale.bus.log import Entry, Log, TopicPartition
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.partitioning import partition_of
from heteroscale.contracts import codec
from heteroscale.contracts.dead_letters import DeadLetter
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.settings import Switch
from heteroscale.signals import app
from heteroscale.signals.settings import SignalsSettings
from support.telemetry_lines import Document, Run, in_time_order, ms, record, sample, spec, steady, tick, ticks

PREFIX = "t"
HOME = partition_of(b"chat", CATALOGUE[Topic.TELEMETRY].partitions)
SETTINGS = SignalsSettings(ticker=Switch.OFF, poll_ms=5, commit_every_ms=100)


def _entry(document: Document | bytes) -> Entry:
    topic = topic_name(PREFIX, Topic.TELEMETRY)
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    is_tick = isinstance(document, dict) and document["kind"] == "tick"
    return Entry(topic, None if is_tick else b"chat", payload, ms(0), HOME)


@asynccontextmanager
async def _served(log: Log, settings: SignalsSettings = SETTINGS) -> AsyncIterator[asyncio.Task[None]]:
    """The service, until the block ends."""
    context = Context(log=log, prefix=PREFIX, health=Health())
    task = asyncio.create_task(app.serve(context, settings))
    try:
        yield task
    finally:
        context.stop.set()
        await task


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.01)


async def _values(log: Log, topic: Topic) -> list[bytes]:
    places = await scan.partitions_of(log, [topic_name(PREFIX, topic)])
    return [found.value or b"" async for batch in scan.to_end(log, places) for found in batch]


async def _new_log() -> MemoryLog:
    log = MemoryLog()
    await catalogue.create(log, PREFIX)
    return log


async def _at_least(log: Log, topic: Topic, count: int) -> None:
    async def holds() -> bool:
        return len(await _values(log, topic)) >= count

    await _until(holds)


async def test_service_publishes_what_the_bare_core_says() -> None:
    """Same windows, but for the partition's number."""
    documents = in_time_order(steady("i", 0, 200, 50), ticks(0, 200))
    expected = Run().feed(*documents).windows
    log = await _new_log()
    async with _served(log):
        await log.append([_entry(document) for document in documents])
        await _at_least(log, Topic.SIGNALS, len(expected))
    actual = [codec.decode(SignalWindow, value) for value in await _values(log, Topic.SIGNALS)]
    assert [(w.end_ms, w.roles) for w in expected] == [(w.end_ms, w.roles) for w in actual]
    assert {HOME} == {window.inputs.partition for window in actual if window.inputs}


async def test_restart_goes_on_where_signals_ends() -> None:
    """Stopped in the middle and started again: no window is missing, none is there twice, all equal those of one run."""
    documents = in_time_order(steady("i", 0, 1_500, 50), ticks(0, 1_500))
    expected = [window.end_ms for window in Run().feed(*documents).windows]
    log = await _new_log()
    async with _served(log):
        await log.append([_entry(document) for document in documents[:1_400]])
        await _at_least(log, Topic.SIGNALS, 40)
    async with _served(log):
        await log.append([_entry(document) for document in documents[1_400:]])
        await _at_least(log, Topic.SIGNALS, len(expected))
    actual = [codec.decode(SignalWindow, value) for value in await _values(log, Topic.SIGNALS)]
    assert expected == [window.end_ms for window in actual]
    assert {50.0} == {window.roles["decode"].decode_tps for window in actual}


async def test_batches_and_restarts_leave_no_mark_on_the_bytes() -> None:
    """SAME-IN-SAME-OUT: records taken one by one, a few or all at a time, in one life or three: equal bytes, inputs too."""
    documents = in_time_order(steady("i", 0, 1_200, 50), steady("j", 3, 1_200, 70, every_s=7), ticks(0, 1_200))
    count = len(Run().feed(*documents).windows)
    told: list[list[bytes]] = []
    for records_max, stops in ((1, []), (7, []), (2_000, []), (50, [300, 1_000])):
        log = await _new_log()
        settings = replace(SETTINGS, records_max=records_max)
        for begin, end in pairwise([0, *stops, len(documents)]):
            async with _served(log, settings):
                await log.append([_entry(document) for document in documents[begin:end]])
                await _at_least(log, Topic.SIGNALS, count if end == len(documents) else 1)
        told.append(await _values(log, Topic.SIGNALS))
    assert count == len(told[0])
    assert [told[0]] * len(told) == told


async def test_spec_applied_live_is_recorded_in_the_windows() -> None:
    """Windows before applied_at carry no revision, those after it do."""
    documents = in_time_order(steady("i", 0, 200, 50), ticks(0, 200))
    log = await _new_log()
    async with _served(log):
        await log.append([_entry(document) for document in documents[:90]])
        wanted = spec(revision=4, applied_s=120)
        await log.append([Entry(topic_name(PREFIX, Topic.SPECS), b"chat", codec.encode(wanted), ms(120), 0)])
        await asyncio.sleep(0.1)
        await log.append([_entry(document) for document in documents[90:]])
        await _at_least(log, Topic.SIGNALS, 9)
    actual = [codec.decode(SignalWindow, value) for value in await _values(log, Topic.SIGNALS)]
    assert {(end, None if end < ms(120) else 4) for end in (window.end_ms for window in actual)} == {
        (window.end_ms, window.spec_revision) for window in actual
    }


async def test_one_percent_garbage_goes_to_dead_letters_and_changes_no_rate() -> None:
    """NOTHING-LOST: every bad record, and every bad sample of a good record, is a dead letter with its place."""
    documents = in_time_order(steady("i", 0, 300, 50), ticks(0, 300))
    log = await _new_log()
    entries = [_entry(document) for document in documents]
    for at in range(50, 350, 100):
        entries.insert(at, _entry(b"\x00 no telemetry"))
    mixed = record(sample("i", 302, generation_tokens=1_000 + 50 * 302), sample("bad", 302, kv_usage=7))
    async with _served(log):
        await log.append([*entries, _entry(mixed), *[_entry(tick(second)) for second in range(301, 330)]])
        await _at_least(log, Topic.DEAD_LETTERS, 4)
        await _at_least(log, Topic.SIGNALS, 17)
    letters = [codec.decode(DeadLetter, value) for value in await _values(log, Topic.DEAD_LETTERS)]
    assert [("undecodable", 50), ("undecodable", 150), ("undecodable", 250)] == [(each.code, each.offset) for each in letters[:3]]
    assert ("invalid_sample", "signals", "bad") == (letters[3].code, letters[3].stage, json.loads(letters[3].payload)["instance"])
    windows = [codec.decode(SignalWindow, value) for value in await _values(log, Topic.SIGNALS)]
    assert {50.0} == {window.roles["decode"].decode_tps for window in windows if window.end_ms <= ms(300)}


async def test_paused_partition_catches_up_with_every_window() -> None:
    """Minutes without ticks or samples, then all at once: every hop has its window, as if nothing had been held back."""
    documents = in_time_order(steady("i", 0, 500, 50), ticks(0, 500))
    expected = [window.end_ms for window in Run().feed(*documents).windows]
    log = await _new_log()
    async with _served(log):
        await log.append([_entry(document) for document in documents[:100]])
        await asyncio.sleep(0.2)
        await log.append([_entry(document) for document in documents[100:]])
        await _at_least(log, Topic.SIGNALS, len(expected))
    assert expected == [codec.decode(SignalWindow, value).end_ms for value in await _values(log, Topic.SIGNALS)]


async def test_publisher_whose_clock_steps_back_goes_on_counting() -> None:
    """20 s back at 100 s and for good: its samples are late from then on, and no rate is negative or absurd.

    When the window to 195 closes, at the tick of 205, the newest sample says 185: 50 tokens/s over 50 of its 60 seconds.
    """
    stepped = [record(sample("i", at if at < 100 else at - 20, generation_tokens=50 * at)) for at in range(0, 240, 5)]
    documents: list[Document] = []
    for at in range(240):
        documents += [stepped[at // 5]] if at % 5 == 0 else []
        documents.append(tick(at))
    run = Run().feed(*documents)
    rates = [window.roles["decode"].decode_tps or 0.0 for window in run.windows]
    assert 0 < sum(window.late_samples for window in run.windows)
    assert all(0.0 <= rate <= 120.0 for rate in rates), rates
    assert round(50 * 50 / 60, 6) == run.role(195).decode_tps


async def test_topic_that_keeps_less_than_the_lookback_is_refused_at_start() -> None:
    """A retention of one minute cannot rebuild a window after a restart."""
    log = MemoryLog()
    short = []
    for each in CATALOGUE.values():
        layout = catalogue.layout_of(each, PREFIX)
        short.append(layout._replace(config=dict(layout.config) | {"retention.ms": "60000"}) if each.topic is Topic.TELEMETRY else layout)
    await log.create_topics(short)
    with pytest.raises(Rejected, match="60000 ms"):
        async with _served(log) as task:
            await task


async def test_only_the_home_partition_has_the_windows_of_a_spec_without_samples() -> None:
    """Twelve partitions tick; the service has one window a hop, not twelve."""
    log = await _new_log()
    await log.append([Entry(topic_name(PREFIX, Topic.SPECS), b"chat", codec.encode(spec()), ms(0), 0)])
    topic = topic_name(PREFIX, Topic.TELEMETRY)
    async with _served(log):
        payloads = [(second, json.dumps(tick(second)).encode()) for second in range(90)]
        await log.append([Entry(topic, None, payload, ms(second), partition) for second, payload in payloads for partition in range(12)])
        await _at_least(log, Topic.SIGNALS, 2)
        await asyncio.sleep(0.1)
    places = [TopicPartition(topic_name(PREFIX, Topic.SIGNALS), partition) for partition in range(12)]
    assert {HOME: 2} == {at.partition: end for at, end in (await log.end_offsets(places)).items() if end}
