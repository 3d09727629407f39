"""Dead letters: nothing is lost, nothing good is diverted, and a whole stream never is."""

from __future__ import annotations

from unittest.mock import AsyncMock

import pytest

from heteroscale.bus import catalogue, dead_letters, scan
from heteroscale.bus.dead_letters import Guard, Letter, Limits
from heteroscale.bus.log import Entry, Log, Record, TopicPartition
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts import codec
from heteroscale.contracts.dead_letters import DeadLetter
from heteroscale.contracts.errors import Broken, Rejected, Retryable
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import Samples
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import metrics
from heteroscale.runtime.metering import dead_letter_counter
from heteroscale.runtime.metrics import Metrics
from support import builders

PREFIX = "memory"
TELEMETRY = topic_name(PREFIX, Topic.TELEMETRY)
LETTERS = TopicPartition(topic_name(PREFIX, Topic.DEAD_LETTERS), 0)
GOOD = codec.encode(builders.samples())


def record(value: bytes | None, offset: int = 7) -> Record:
    """A telemetry record."""
    return Record(TELEMETRY, 3, offset, builders.AT_MS, b"chat", value)


async def letters(log: Log, **filters: str) -> list[Letter]:
    """All dead letters that match."""
    return [letter async for letter in dead_letters.read(log, PREFIX, **filters)]


@pytest.mark.parametrize(
    ("value", "code"),
    [(b"{not json", "undecodable"), (b'{"kind":"samples","service":1}', "invalid"), (b"\xff\xfe", "undecodable"), (None, "empty")],
)
async def test_a_bad_record_lands_with_place_code_and_payload(memory_log: Log, value: bytes | None, code: str) -> None:
    """The letter is durable when the guard answers null, and counted."""
    await catalogue.create(memory_log, PREFIX)
    registry = Metrics()
    guard = Guard(memory_log, PREFIX, "signals", counter=dead_letter_counter(registry))
    assert await guard.decode(record(value), Samples) is None
    (letter,) = await letters(memory_log)
    found = letter.dead_letter
    assert (0, TELEMETRY, 3, 7, "chat", builders.AT_MS, "signals", code, value or b"") == (
        letter.offset,
        found.topic,
        found.partition,
        found.offset,
        found.key,
        found.at_ms,
        found.stage,
        found.code,
        found.payload,
    )
    assert found.message
    assert 1 == registry.value(metrics.DEAD_LETTERS, topic="telemetry.v1", stage="signals", code=code)


async def test_a_good_record_passes_untouched(memory_log: Log) -> None:
    """It is decoded, and nothing is written."""
    await catalogue.create(memory_log, PREFIX)
    decoded = await Guard(memory_log, PREFIX, "signals").decode(record(GOOD), Samples)
    assert builders.samples() == decoded
    assert [] == await letters(memory_log)


async def test_parts_of_a_record_are_refused_each_on_its_own(memory_log: Log) -> None:
    """Two bad samples of one record make two letters, with the same place and their own payloads."""
    await catalogue.create(memory_log, PREFIX)
    guard = Guard(memory_log, PREFIX, "signals", limits=Limits(consecutive=2))
    errors = [Rejected("negative", "a negative counter"), Rejected("future", "an hour ahead")]
    await guard.refuse(record(GOOD), errors, [b'{"instance":"a"}', b'{"instance":"b"}'])
    found = [letter.dead_letter for letter in await letters(memory_log)]
    assert [("negative", 7, b'{"instance":"a"}'), ("future", 7, b'{"instance":"b"}')] == [
        (one.code, one.offset, one.payload) for one in found
    ]


async def test_too_many_in_a_row_stop_the_process(memory_log: Log) -> None:
    """The hundredth bad record in a row is written too, and then it is us who are wrong; a good one between starts anew."""
    await catalogue.create(memory_log, PREFIX)
    guard = Guard(memory_log, PREFIX, "signals", limits=Limits(consecutive=3))
    for offset, value in enumerate((b"x", b"x", GOOD, b"x", b"x")):
        await guard.decode(record(value, offset), Samples)
    with pytest.raises(Broken, match="signals refused 3 records in a row"):
        await guard.decode(record(b"x", offset=9), Samples)
    assert 5 == len(await letters(memory_log))


async def test_too_large_a_share_stops_the_process(memory_log: Log) -> None:
    """Over a full window the ratio counts; before it is full a few bad ones among few are no reason."""
    await catalogue.create(memory_log, PREFIX)
    guard = Guard(memory_log, PREFIX, "signals", limits=Limits(consecutive=100, ratio=0.4, window=10))
    for offset in range(4):
        await guard.decode(record(b"x", offset), Samples)
        await guard.decode(record(GOOD), Samples)
    await guard.decode(record(GOOD), Samples)
    await guard.decode(record(GOOD), Samples)
    await guard.decode(record(b"x", 8), Samples)  # takes the place of a bad one: still four of ten
    with pytest.raises(Broken, match="refused 5 of the last 10 records"):
        await guard.decode(record(b"x", 9), Samples)


async def test_old_faults_leave_the_window(memory_log: Log) -> None:
    """A bad spell long ago does not add to a new one."""
    await catalogue.create(memory_log, PREFIX)
    guard = Guard(memory_log, PREFIX, "signals", limits=Limits(consecutive=100, ratio=0.4, window=10))
    for spell in range(5):
        for place, value in enumerate((*([b"x"] * 4), *([GOOD] * 10))):
            await guard.decode(record(value, 100 * spell + place), Samples)
    assert 20 == len(await letters(memory_log))


async def test_past_the_limits_people_can_let_a_stage_go_on(memory_log: Log) -> None:
    """A topic that holds more bad records in a row than the limit does not hold the loop for ever: the named setting helps."""
    await catalogue.create(memory_log, PREFIX)
    guard = Guard(memory_log, PREFIX, "signals", limits=dead_letters.limits_of(None))
    for offset in range(99):
        await guard.decode(record(b"x", offset), Samples)
    with pytest.raises(Broken, match="start once with a higher HETEROSCALE_DEAD_LETTERS_CONSECUTIVE"):
        await guard.decode(record(b"x", 99), Samples)
    again = Guard(memory_log, PREFIX, "signals", limits=dead_letters.limits_of(BusSettings(dead_letters_consecutive=200)))
    for offset in range(150):
        await again.decode(record(b"x", offset), Samples)
    assert list(range(150)) == [letter.dead_letter.offset for letter in await letters(memory_log)]


async def test_a_batch_that_is_tried_again_writes_and_counts_a_bad_record_once(memory_log: Log) -> None:
    """While something else is away a batch may be handled many times; that alone never reaches a limit."""
    await catalogue.create(memory_log, PREFIX)
    guard = Guard(memory_log, PREFIX, "placement", limits=Limits(consecutive=3))
    for _ in range(10):
        for offset in (1, 2):
            assert await guard.decode(record(b"x", offset), Samples) is None
    assert [1, 2] == [letter.dead_letter.offset for letter in await letters(memory_log)]


async def test_a_refusal_that_could_not_be_written_is_tried_again(memory_log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not durable does not count as done."""
    await catalogue.create(memory_log, PREFIX)
    guard = Guard(memory_log, PREFIX, "placement")
    with monkeypatch.context() as away:
        away.setattr(type(memory_log), "append", AsyncMock(side_effect=Retryable("away")))
        with pytest.raises(Retryable):
            await guard.decode(record(b"x"), Samples)
    await guard.decode(record(b"x"), Samples)
    assert 1 == len(await letters(memory_log))


async def test_what_two_workers_refused_is_listed_once(memory_log: Log) -> None:
    """The second letter on a record can be shown by number, but is no news; another stage's letter is."""
    await catalogue.create(memory_log, PREFIX)
    first, second, other = (Guard(memory_log, PREFIX, stage) for stage in ("signals", "signals", "decision"))
    for guard, offset in ((first, 1), (second, 2), (first, 7), (second, 7), (other, 7)):
        await guard.decode(record(b"x", offset), Samples)
    await memory_log.append([Entry(topic_name(PREFIX, Topic.DEAD_LETTERS), b"chat", b"garbage", builders.AT_MS)])
    assert [0, 1, 2, 4] == [letter.offset for letter in await letters(memory_log)]
    assert await dead_letters.get(memory_log, PREFIX, 3) is not None


async def test_letters_are_listed_by_filter_and_found_by_offset(memory_log: Log) -> None:
    """Filters are by topic (with or without the prefix), stage and code; an unknown offset is null."""
    await catalogue.create(memory_log, PREFIX)
    await Guard(memory_log, PREFIX, "signals").decode(record(b"x"), Samples)
    await Guard(memory_log, PREFIX, "decision").decode(record(None), Samples)
    assert [0, 1] == [letter.offset for letter in await letters(memory_log)]
    assert [1] == [letter.offset for letter in await letters(memory_log, stage="decision")]
    assert [0] == [letter.offset for letter in await letters(memory_log, code="undecodable", topic="telemetry.v1")]
    assert [0, 1] == [letter.offset for letter in await letters(memory_log, topic=TELEMETRY)]
    assert [] == await letters(memory_log, topic="signals.v1")
    found = await dead_letters.get(memory_log, PREFIX, 1)
    assert found is not None
    assert "decision" == found.dead_letter.stage
    assert await dead_letters.get(memory_log, PREFIX, 5) is None


async def test_a_retried_record_goes_back_where_it_came_from(memory_log: Log) -> None:
    """Same topic, partition, key, timestamp and bytes, at a new offset; the letter stays."""
    await catalogue.create(memory_log, PREFIX)
    await memory_log.append([Entry(TELEMETRY, b"chat", b"x", builders.AT_MS, 3)])
    await Guard(memory_log, PREFIX, "signals").decode(record(b"x", offset=0), Samples)
    (letter,) = await letters(memory_log)
    place = await dead_letters.retry(memory_log, letter)
    assert (TopicPartition(TELEMETRY, 3), 1) == place
    reader = memory_log.reader({place.at: place.offset})
    assert [Record(TELEMETRY, 3, 1, builders.AT_MS, b"chat", b"x")] == await reader.poll(timeout_ms=0)
    assert 1 == len(await letters(memory_log))


@pytest.mark.parametrize(("payload", "code"), [(b"", "empty"), (codec.encode(builders.sample()), "negative")])
async def test_what_was_no_record_cannot_be_retried(memory_log: Log, payload: bytes, code: str) -> None:
    """An empty record, or one sample out of a record, is refused with the reason."""
    await catalogue.create(memory_log, PREFIX)
    await Guard(memory_log, PREFIX, "signals").refuse(record(GOOD), [Rejected(code, "no")], [payload])
    (letter,) = await letters(memory_log)
    with pytest.raises(Rejected) as refused:
        await dead_letters.retry(memory_log, letter)
    assert "not_retryable" == refused.value.code


async def test_a_bad_spec_is_one_letter_however_often_the_topic_is_read_again(memory_log: Log) -> None:
    """A compacted topic is read from its beginning at each start: the next process neither writes nor counts what stands there already."""
    await catalogue.create(memory_log, PREFIX)
    spec = Record(topic_name(PREFIX, Topic.SPECS), 0, 4, builders.AT_MS, b"chat", b"{")
    other = Record(topic_name(PREFIX, Topic.SPECS), 0, 9, builders.AT_MS, b"chat", b"{")
    registry = Metrics()
    for _ in range(3):
        guard = Guard(memory_log, PREFIX, "decision", limits=Limits(consecutive=2), counter=dead_letter_counter(registry))
        assert await guard.decode(spec, ServiceSpec) is None
    assert await guard.decode(other, ServiceSpec) is None
    raw = [letter async for batch in scan.to_end(memory_log, [LETTERS]) for letter in batch]
    assert [4, 9] == [codec.decode(DeadLetter, letter.value or b"").offset for letter in raw]
    assert 2 == registry.value(metrics.DEAD_LETTERS, topic="specs.v1", stage="decision", code="undecodable")


async def test_each_stage_says_for_itself_that_it_could_not_use_a_record(memory_log: Log) -> None:
    """What one stage refused is not yet refused by another."""
    await catalogue.create(memory_log, PREFIX)
    spec = Record(topic_name(PREFIX, Topic.SPECS), 0, 4, builders.AT_MS, b"chat", b"{")
    for stage in ("signals", "decision", "signals"):
        assert await Guard(memory_log, PREFIX, stage).decode(spec, ServiceSpec) is None
    assert ["signals", "decision"] == [letter.dead_letter.stage for letter in await letters(memory_log)]


async def test_telemetry_that_a_new_process_reads_again_is_not_written_again(memory_log: Log) -> None:
    """One letter; but a stream that cannot be read stops the next process as it stopped the one before."""
    await catalogue.create(memory_log, PREFIX)
    for _ in range(2):
        guard = Guard(memory_log, PREFIX, "signals", limits=Limits(consecutive=3))
        for offset in (1, 2):
            assert await guard.decode(record(b"{", offset), Samples) is None
        with pytest.raises(Broken, match="3 records in a row"):
            await guard.decode(record(b"{", 3), Samples)
    raw = [letter async for batch in scan.to_end(memory_log, [LETTERS]) for letter in batch]
    assert [1, 2, 3] == [codec.decode(DeadLetter, letter.value or b"").offset for letter in raw]
