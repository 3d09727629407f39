"""The same scenario over the log in memory and over real Kafka gives the same decisions and the same placements."""

from __future__ import annotations

import pytest

from heteroscale.bus import connect
from heteroscale.bus.log import Log
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.topics import Topic
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.simulator.cluster.world import Scene
from heteroscale.simulator.loop.crew import Tasks
from heteroscale.simulator.loop.embedded import Embedded
from heteroscale.simulator.play import play
from support.simulation_cast import scene
from support.topic_values import values

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


async def decided(here: Scene, log: Log) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """What was decided, and who ran where, whatever the offsets."""
    await play(here, log, Tasks(log, here.prefix, Embedded().services()), lambda _: None, timeout_s=30.0)
    decisions = [codec.decode(Decision, value) for value in await values(log, here.prefix, Topic.DECISIONS)]
    said: list[tuple[object, ...]] = [
        (d.service, d.at_ms, d.id, d.action, d.reason, d.stages, d.before, d.after, d.command_id) for d in decisions
    ]
    newest: dict[str, Placement] = {}
    for value in await values(log, here.prefix, Topic.PLACEMENTS):
        placement = codec.decode(Placement, value)
        newest[placement.service] = placement
    placed: list[tuple[object, ...]] = [(name, one.revision, one.status, one.shortfall, one.groups) for name, one in sorted(newest.items())]
    return sorted(said, key=lambda one: (str(one[0]), str(one[1]))), placed


async def test_memory_and_kafka_decide_the_same(kafka: str, prefix: str) -> None:
    """A fault and its healing included: every decision equal stage by stage, and in the end the same engines on the same nodes."""
    logs.configure(LogFormat.JSON, LogLevel.ERROR)
    mishaps = ("instance:code/prefill@3m", "node:srv1101@5m+4m")
    in_memory = await decided(scene(0.25, *mishaps, prefix=prefix), MemoryLog())
    log = await connect.open_log(BusSettings(kafka=kafka))
    try:
        on_kafka = await decided(scene(0.25, *mishaps, prefix=prefix), log)
    finally:
        await log.close()
    assert len(in_memory[0]) > 60
    assert in_memory[0] == on_kafka[0]
    assert in_memory[1] == on_kafka[1]
