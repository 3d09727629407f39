"""The subscriber SDK and the dry-run actuator, on the log in memory and on real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import pytest

from heteroscale.actuation import app
from heteroscale.actuation.settings import ActuatorSettings, Answers, Follow
from heteroscale.actuation.subscriber import Assignment, CommandSubscriber, Interest, PlacementSubscriber
from heteroscale.bus import catalogue, dead_letters, scan
from heteroscale.bus.log import Entry, Log
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.commands import Command
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import metrics
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.metrics import Metrics
from support import builders

TOPICS = (Topic.PLACEMENTS, Topic.COMMANDS, Topic.ACTUATIONS, Topic.DEAD_LETTERS)
WITHIN_S = 20.0

V = TypeVar("V", Placement, Command)


async def first(stream: AsyncIterator[Assignment[V]], count: int) -> list[Assignment[V]]:
    """The next `count` assignments, within a limit."""
    async with asyncio.timeout(WITHIN_S):
        return [await anext(stream) for _ in range(count)]


async def actuations(log: Log, prefix: str) -> list[Actuation]:
    """All acknowledgements so far, in order of their offsets."""
    found: list[Actuation] = []
    async for batch in scan.to_end(log, await scan.partitions_of(log, [topic_name(prefix, Topic.ACTUATIONS)])):
        found += [codec.decode(Actuation, record.value or b"") for record in batch]
    return found


async def test_a_subscriber_starts_with_the_newest_of_each_service(log: Log, prefix: str) -> None:
    """Older records, repetitions and dry-run answers are passed over; what comes later follows, with what went before."""
    await catalogue.create(log, prefix, keep_forever=True, topics=TOPICS)
    old = [builders.placement("chat", seq=n) for n in (1, 2, 3, 3)] + [builders.placement("code", seq=1)]
    await log.append([builders.placement_entry(prefix, placement) for placement in old])
    await log.append([builders.placement_entry(prefix, builders.placement("chat", seq=None, at_ms=builders.AT_MS + 1))])
    registry = Metrics()
    async with PlacementSubscriber(log, prefix, Interest(actuator="test"), registry=registry) as subscriber:
        stream = aiter(subscriber)
        start = await first(stream, 2)
        assert [("chat", 3, None), ("code", 1, None)] == [(one.value.service, one.value.seq, one.previous) for one in start]
        await log.append([builders.placement_entry(prefix, builders.placement("chat", seq=2))])
        await log.append([builders.placement_entry(prefix, builders.placement("chat", builders.instance(), seq=4))])
        (later,) = await first(stream, 1)
        assert (4, 3) == (later.value.seq, None if later.previous is None else later.previous.seq)
    assert 3 == registry.value(metrics.ASSIGNMENTS, outcome="handed")
    assert 2 == registry.value(metrics.ASSIGNMENTS, outcome="skipped")


async def test_the_newest_wins_however_far_apart_the_records_lie(memory_log: Log) -> None:
    """Thousands of older records after the newest, read in several batches, hand out the newest once."""
    await catalogue.create(memory_log, "memory", topics=TOPICS)
    placements = [builders.placement("chat", seq=9_000), *(builders.placement("chat", seq=n) for n in range(1, 6_001))]
    await memory_log.append([builders.placement_entry("memory", placement) for placement in placements])
    registry = Metrics()
    async with PlacementSubscriber(memory_log, "memory", Interest(actuator="test"), registry=registry) as subscriber:
        (only,) = await first(aiter(subscriber), 1)
    assert 9_000 == only.value.seq
    assert 6_000 == registry.value(metrics.ASSIGNMENTS, outcome="skipped")


async def test_a_restarted_subscriber_repeats_only_what_stands(log: Log, prefix: str) -> None:
    """A second subscriber, started later, gets the newest record alone: no state, no commits."""
    await catalogue.create(log, prefix, keep_forever=True, topics=TOPICS)
    for seq in (1, 2):
        await log.append([builders.placement_entry(prefix, builders.placement("chat", seq=seq))])
        async with PlacementSubscriber(log, prefix, Interest(actuator="test", services=["chat"])) as subscriber:
            (only,) = await first(aiter(subscriber), 1)
            assert seq == only.value.seq


async def test_commands_follow_revision_and_time(log: Log, prefix: str) -> None:
    """Affirmations come through, an overtaken revision and a dry run do not, other fleets are not heard."""
    await catalogue.create(log, prefix, keep_forever=True, topics=TOPICS)
    at_ms = builders.AT_MS
    sent = [
        builders.command(revision=2, at_ms=at_ms),
        builders.command(revision=1, at_ms=at_ms + 5),
        builders.command(revision=9, at_ms=at_ms + 6, dry_run=True),
        builders.command(revision=2, at_ms=at_ms + 7),
    ]
    async with CommandSubscriber(log, prefix, Interest(actuator="test", fleet="default")) as subscriber:
        stream = aiter(subscriber)
        seen = []
        for command in sent:
            await log.append([builders.entry(prefix, Topic.COMMANDS, command.fleet, command, command.at_ms)])
            if command.revision == 2:
                (assignment,) = await first(stream, 1)
                seen.append(assignment.value.at_ms - at_ms)
    assert [0, 7] == seen


async def test_acknowledgements_carry_the_time_of_the_assignment(log: Log, prefix: str) -> None:
    """Each kind is written, keyed by fleet, stamped with the assignment's at_ms, in order."""
    await catalogue.create(log, prefix, keep_forever=True, topics=TOPICS)
    placement = builders.placement("chat", builders.instance("p1"), at_ms=builders.AT_MS + 77)
    registry = Metrics()
    acknowledge = PlacementSubscriber(log, prefix, Interest(actuator="mine"), registry=registry).acknowledge
    await acknowledge.starting(placement, "p1")
    await acknowledge.ready(placement, "p1", "took 3 s")
    await acknowledge.failed(placement, "p1")
    await acknowledge.stopped(placement, "p1")
    found = await actuations(log, prefix)
    assert list(ActuationKind) == [one.kind for one in found]
    assert {("chat", "default", "p1", builders.AT_MS + 77, "mine")} == {
        (one.service, one.fleet, one.instance, one.at_ms, one.actuator) for one in found
    }
    assert [None, "took 3 s", None, None] == [one.detail for one in found]
    assert 1 == registry.value(metrics.ACKNOWLEDGEMENTS, kind="failed")


async def test_an_unreadable_record_becomes_a_dead_letter_and_the_rest_goes_on(log: Log, prefix: str) -> None:
    """NOTHING-LOST: the bad record is in dead-letters.v1 with its place, the next good one is handed out."""
    await catalogue.create(log, prefix, keep_forever=True, topics=TOPICS)
    name = topic_name(prefix, Topic.PLACEMENTS)
    await log.append([Entry(name, b"chat", b'{"service": 7}', builders.AT_MS)])
    await log.append([builders.placement_entry(prefix, builders.placement("chat"))])
    async with PlacementSubscriber(log, prefix, Interest(actuator="test")) as subscriber:
        (only,) = await first(aiter(subscriber), 1)
        assert "chat" == only.value.service
    letters = [letter.dead_letter async for letter in dead_letters.read(log, prefix)]
    assert [(name, 0, "chat", "actuation", "invalid", b'{"service": 7}')] == [
        (one.topic, one.offset, one.key, one.stage, one.code, one.payload) for one in letters
    ]


@pytest.mark.parametrize("answers", list(Answers))
async def test_the_dry_run_actuator_acknowledges_only_when_it_is_to_pretend(log: Log, prefix: str, answers: Answers) -> None:
    """Silent by default; pretending, it answers reserved with starting and ready, and stopping with stopped."""
    await catalogue.create(log, prefix, keep_forever=True, topics=TOPICS)
    instances = [
        builders.instance("new"),
        builders.instance("old", state=InstanceState.STOPPING),
        builders.instance("up", state=InstanceState.READY, routable=True),
    ]
    await log.append([builders.placement_entry(prefix, builders.placement("chat", *instances))])
    context = Context(log=log, prefix=prefix, health=Health())
    serving = asyncio.create_task(app.serve(context, ActuatorSettings(actuator_answers=answers)))
    expected = [("new", "starting"), ("new", "ready"), ("old", "stopped")] if answers is Answers.PRETEND else []
    async with asyncio.timeout(WITHIN_S):
        while not context.metrics.value(metrics.ASSIGNMENTS, outcome="handed") or len(await actuations(log, prefix)) < len(expected):
            await asyncio.sleep(0.02)
    context.stop.set()
    await asyncio.wait_for(serving, WITHIN_S)
    assert expected == [(one.instance, one.kind.value) for one in await actuations(log, prefix)]


async def test_the_dry_run_actuator_follows_commands(memory_log: Log) -> None:
    """With `follow = commands` it hears commands and writes nothing."""
    await catalogue.create(memory_log, "memory", topics=TOPICS)
    await memory_log.append([builders.entry("memory", Topic.COMMANDS, "default", builders.command())])
    context = Context(log=memory_log, prefix="memory", health=Health())
    serving = asyncio.create_task(app.serve(context, ActuatorSettings(actuator_follow=Follow.COMMANDS)))
    async with asyncio.timeout(WITHIN_S):
        while not context.metrics.value(metrics.ASSIGNMENTS, outcome="handed"):
            await asyncio.sleep(0)
    context.stop.set()
    await asyncio.wait_for(serving, WITHIN_S)
    assert [] == await actuations(memory_log, "memory")
