"""The decision service on real Kafka: one decision a window across a hard stop, and commands soon after windows."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from heteroscale.bus import catalogue, scan
from heteroscale.bus.log import Entry, Log
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.decision import app
from heteroscale.decision.settings import DecisionSettings
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support import brokers, lawbook

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
SERVICES = [f"s{i}" for i in range(8)]
SETTINGS = DecisionSettings(poll_ms=50)


async def give(log: Log, prefix: str, at: int, load: float) -> None:
    """Window number `at` of every service."""
    entries = []
    for service in SERVICES:
        document = codec.to_document(lawbook.window(at, decode=4, load=load)) | {"service": service}
        window = codec.convert(SignalWindow, document)
        entries.append(Entry(topic_name(prefix, Topic.SIGNALS), service.encode(), codec.encode(window), window.end_ms))
    await log.append(entries)


async def decisions(log: Log, prefix: str) -> list[Decision]:
    """All that were published, first of each id."""
    found: dict[str, Decision] = {}
    places = await scan.partitions_of(log, [topic_name(prefix, Topic.DECISIONS)])
    async for batch in scan.to_end(log, places):
        for record in batch:
            decision = codec.decode(Decision, record.value or b"")
            assert found.setdefault(decision.id, decision) == decision
    return list(found.values())


async def until(log: Log, prefix: str, count: int) -> list[Decision]:
    """Wait for so many decisions."""
    for _ in range(300):
        made = await decisions(log, prefix)
        if len(made) >= count:
            return made
        await asyncio.sleep(0.1)
    raise AssertionError(f"{len(made)} of {count} decisions")


async def test_one_decision_a_window_across_a_hard_stop(kafka: str, prefix: str) -> None:
    """A worker is cancelled without draining; the next one goes on from the states: every window once, and the commands stand."""
    log = brokers.build_log(kafka, prefix)
    try:
        await catalogue.create(log, prefix, keep_forever=True)
        specs = [lawbook.spec(service=service, placement="none") for service in SERVICES]
        await log.append([Entry(topic_name(prefix, Topic.SPECS), s.service.encode(), codec.encode(s), s.applied_at_ms or 0) for s in specs])
        for at in range(4):
            await give(log, prefix, at, 4.0)
        first = asyncio.create_task(app.serve(Context(log=log, prefix=prefix, health=Health()), SETTINGS))
        await until(log, prefix, 4 * len(SERVICES))
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        for at in range(4, 8):
            await give(log, prefix, at, 8.0)
        context = Context(log=log, prefix=prefix, health=Health())
        second = asyncio.create_task(app.serve(context, SETTINGS))
        made = await until(log, prefix, 8 * len(SERVICES))
        await asyncio.sleep(0.3)
        context.stop.set()
        await second
        assert 8 * len(SERVICES) == len(made) == len({(decision.service, decision.at_ms) for decision in made})
        places = await scan.partitions_of(log, [topic_name(prefix, Topic.COMMANDS)])
        commands = [codec.decode(Command, r.value or b"") async for batch in scan.to_end(log, places) for r in batch]
        assert {(service, 8) for service in SERVICES} == {(command.service, command.roles["decode"].replicas) for command in commands}
    finally:
        await log.close()
