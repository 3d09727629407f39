"""The publisher against a real broker that dies and comes back: the engine notices nothing, the counts add up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from heteroscale.bus import scan
from heteroscale.bus.kafka import KafkaLog
from heteroscale.bus.log import TopicLayout
from heteroscale.contracts import codec
from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples
from heteroscale.servers import chain, kafka, process
from heteroscale.servers.launch import Place
from heteroscale.telemetry.publisher import Publisher, PublisherLimits, PublisherSettings
from support import capabilities

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
TOPIC = "away.telemetry.v1"


async def test_samples_survive_a_broker_that_dies_and_comes_back(tmp_path: Path) -> None:
    """Publish answers at once throughout; what was held is delivered after the restart, in order, nothing twice."""
    why = kafka.unavailable()
    native = capabilities.look("native-kafka", lambda: (why is None, why or "Java"))
    if not native.available:
        capabilities.missing(native)
    server = kafka.start(Place(port=None, folder=tmp_path / "kafka", owner=process.myself()), lambda _line: None)
    try:
        settings = PublisherSettings(kafka=server.address, prefix="away", request_timeout_ms=1_500)
        log = KafkaLog(settings)
        await log.create_topics([TopicLayout(TOPIC, 1, {})])
        await log.close()
        publisher = Publisher("chat", settings, limits=PublisherLimits(linger_ms=10))
        slowest = 0.0
        for n in range(300):
            if n == 100:
                _until(lambda: publisher.stats.sent == 100)
                chain.end(server, delete_data=False)
            began = time.monotonic()
            assert publisher.publish(_sample(n))
            slowest = max(slowest, time.monotonic() - began)
            if n == 150:
                _until(lambda: publisher.stats.failures > 0)
        server = kafka.start(Place(port=server.port, folder=tmp_path / "kafka", owner=process.myself()), lambda _line: None)
        stats = publisher.close(30)
        assert slowest < 0.5
        assert (300, 300, 0) == (stats.published, stats.sent, stats.dropped)
        log = KafkaLog(settings)
        found = [
            one.generation_tokens
            async for batch in scan.to_end(log, await scan.partitions_of(log, [TOPIC]))
            for record in batch
            for one in codec.decode(Samples, record.value or b"").samples
        ]
        await log.close()
        assert [*range(300)] == found
    finally:
        chain.end(server, delete_data=True)


def _sample(n: int) -> InstanceSample:
    return InstanceSample(instance="i", role="decode", state=EngineState.SERVING, at_ms=1_700_000_000_000 + n, generation_tokens=n)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
