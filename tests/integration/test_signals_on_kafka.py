"""The Faust workers on real Kafka: killed, joined, fed garbage, they emit what an undisturbed run emits."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from heteroscale.bus import catalogue, scan
from heteroscale.bus.log import Entry, Log, Record
from heteroscale.bus.partitioning import partition_of
from heteroscale.contracts import codec
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.signals.aggregator import PartitionAggregator
from heteroscale.signals.worker import group_of
from support import brokers
from support.processes import Fleet
from support.telemetry_lines import ms, record, sample, tick

pytestmark = pytest.mark.kafka
SERVICES = ("chat", "code", "vision", "search")
PARTITIONS = CATALOGUE[Topic.TELEMETRY].partitions
SECONDS = 1_500
CATCH_UP_WITHIN_S = 45.0


def _entries(prefix: str, from_s: int, to_s: int, chance: random.Random) -> list[Entry]:
    """Telemetry of four services for a stretch of time, a tick a second in every partition, one record in a hundred garbage."""
    topic = topic_name(prefix, Topic.TELEMETRY)
    entries: list[Entry] = []
    for second in range(from_s, to_s):
        for number, service in enumerate(SERVICES):
            if (second + number) % 5 == 0:
                document = record(*[sample(f"i{k}", second, generation_tokens=second * (100 + 7 * k)) for k in range(5)], service=service)
                payload = b'{"kind":"samples","service"' if chance.random() < 0.01 else json.dumps(document).encode()
                entries.append(Entry(topic, service.encode(), payload, ms(second)))
        entries += [Entry(topic, None, json.dumps(tick(second)).encode(), ms(second), partition) for partition in sorted(_homes())]
    return entries


def _homes() -> set[int]:
    return {partition_of(service.encode(), PARTITIONS) for service in SERVICES}


async def _records(log: Log, prefix: str, topic: Topic) -> list[Record]:
    places = await scan.partitions_of(log, [topic_name(prefix, topic)])
    return [found async for batch in scan.to_end(log, places) for found in batch]


def _undisturbed(records: Iterable[Record]) -> dict[tuple[str, int], bytes]:
    """What one aggregator a partition emits that sees every record once."""
    cores = {partition: PartitionAggregator(partition) for partition in range(PARTITIONS)}
    found: dict[tuple[str, int], bytes] = {}
    for each in records:
        for window in cores[each.partition].handle(each.offset, each.value or b"").windows:
            found[window.service, window.end_ms] = codec.encode(window)
    return found


async def _emitted(log: Log, prefix: str) -> dict[tuple[str, int], set[bytes]]:
    found: dict[tuple[str, int], set[bytes]] = {}
    for each in await _records(log, prefix, Topic.SIGNALS):
        window = codec.decode(SignalWindow, each.value or b"")
        found.setdefault((window.service, window.end_ms), set()).add(each.value or b"")
    return found


async def _committed_behind_the_lookback(log: Log, kafka: str, prefix: str) -> None:
    """Commits moved, and not past what an aggregator that saw everything calls safe."""
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        committed = await client.list_consumer_group_offsets(group_of(prefix))
    finally:
        await client.close()
    cores = {partition: PartitionAggregator(partition) for partition in _homes()}
    for each in await _records(log, prefix, Topic.TELEMETRY):
        cores[each.partition].handle(each.offset, each.value or b"")
    offsets = {at.partition: found.offset for at, found in committed.items() if found.offset > 0}
    assert cores.keys() == offsets.keys()
    assert all(offsets[partition] <= (cores[partition].safe_offset() or 0) for partition in offsets)


async def _compare(log: Log, prefix: str) -> None:
    expected = _undisturbed(await _records(log, prefix, Topic.TELEMETRY))
    assert len(SERVICES) * 90 < len(expected)
    deadline = asyncio.get_running_loop().time() + CATCH_UP_WITHIN_S
    emitted = await _emitted(log, prefix)
    while expected.keys() - emitted.keys() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.5)
        emitted = await _emitted(log, prefix)
    assert {key: {value} for key, value in expected.items()} == emitted


@pytest.mark.timeout(150)
def test_killed_worker_loses_no_window_and_none_comes_twice_with_other_content(kafka: str, prefix: str, tmp_path: Path) -> None:
    """SAME-IN-SAME-OUT, NOTHING-LOST: kill -9 one of two workers, another joins; the union equals an undisturbed run's, byte for byte."""
    environment = {
        "HETEROSCALE_KAFKA": kafka,
        "HETEROSCALE_PREFIX": prefix,
        "HETEROSCALE_TICKER": "off",
        "HETEROSCALE_SIGNALS_COMMIT_EVERY_MS": "200",
    }
    chance = random.Random(20_261_123)

    async def produce(log: Log, from_s: int, to_s: int) -> None:
        entries = _entries(prefix, from_s, to_s, chance)
        for start in range(0, len(entries), 500):
            await log.append(entries[start : start + 500])
            await asyncio.sleep(0.05)

    async def whole() -> None:
        log = brokers.build_log(kafka, prefix)
        try:
            await catalogue.create(log, prefix, keep_forever=True)
            with Fleet(environment, tmp_path) as fleet:
                first = fleet.start("signals", wait=False)
                second = fleet.start("signals", wait=False)
                await asyncio.to_thread(fleet.await_ready, first)
                await asyncio.to_thread(fleet.await_ready, second)
                await produce(log, 0, 900)
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                await produce(log, 900, 1_200)
                first.signal(signal.SIGKILL)
                await produce(log, 1_200, 1_350)
                fleet.start("signals", wait=False)
                await produce(log, 1_350, SECONDS)
                await _compare(log, prefix)
                await _committed_behind_the_lookback(log, kafka, prefix)
                second.signal(signal.SIGTERM)
                assert 0 == await asyncio.to_thread(second.process.wait, 25)
        finally:
            await log.close()

    asyncio.run(whole())
