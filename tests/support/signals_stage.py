"""Signals workers as processes on real Kafka: made-up telemetry in, and the check of what they emitted against one core that saw all."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Iterator
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient

from heteroscale.bus import scan
from heteroscale.bus.log import Entry, Log, Record
from heteroscale.bus.partitioning import partition_of
from heteroscale.contracts import codec
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.signals.aggregator import PartitionAggregator
from heteroscale.signals.worker import group_of
from support.telemetry_lines import ms, record, sample, tick

SERVICES: Final = ("chat", "code", "vision", "search")
PARTITIONS: Final = CATALOGUE[Topic.TELEMETRY].partitions
STEPS_BACK_AT_S: Final = 700  # the second at which one publisher's clock falls back, for good,
STEP_BACK_S: Final = 20  # by this much


def environment(kafka: str, prefix: str) -> dict[str, str]:
    """What a worker is started with: time comes from the telemetry, commits are frequent, a dead worker is noticed soon."""
    return {
        "HETEROSCALE_KAFKA": kafka,
        "HETEROSCALE_PREFIX": prefix,
        "HETEROSCALE_TICKER": "off",
        "HETEROSCALE_SIGNALS_COMMIT_EVERY_MS": "200",
    }


def homes() -> set[int]:
    """The partitions of the services."""
    return {partition_of(service.encode(), PARTITIONS) for service in SERVICES}


def entries(prefix: str, seconds: Iterable[int], chance: random.Random) -> list[Entry]:
    """Telemetry of four services, a tick a second in every partition, one record in a hundred garbage, one clock that steps back."""
    topic = topic_name(prefix, Topic.TELEMETRY)
    found: list[Entry] = []
    for second in seconds:
        for service in (service for number, service in enumerate(SERVICES) if (second + number) % 5 == 0):
            payload = b'{"kind":"samples","service"' if chance.random() < 0.01 else json.dumps(_record(service, second)).encode()
            found.append(Entry(topic, service.encode(), payload, ms(second)))
        found += [Entry(topic, None, json.dumps(tick(second)).encode(), ms(second), partition) for partition in sorted(homes())]
    return found


def _record(service: str, second: int) -> dict[str, Any]:
    shown = second - STEP_BACK_S if service == "search" and second >= STEPS_BACK_AT_S else second
    return record(*[sample(f"i{k}", shown, generation_tokens=second * (100 + 7 * k)) for k in range(5)], service=service)


async def produce(log: Log, prefix: str, seconds: range, chance: random.Random) -> None:
    """Append the telemetry of these seconds, a little at a time."""
    made = entries(prefix, seconds, chance)
    for start in range(0, len(made), 500):
        await log.append(made[start : start + 500])
        await asyncio.sleep(0.05)


async def compare(log: Log, prefix: str, within_s: float) -> int:
    """Wait for every window of an undisturbed run; each must be there, and never twice with other content. How many there are."""
    cores = await _undisturbed(log, prefix)
    expected = {(window.service, window.end_ms): {codec.encode(window)} for windows, _ in cores.values() for window in windows}
    deadline = asyncio.get_running_loop().time() + within_s
    emitted = await _emitted(log, prefix)
    while expected.keys() - emitted.keys() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.5)
        emitted = await _emitted(log, prefix)
    assert expected == emitted
    return len(expected)


async def committed_behind_the_lookback(log: Log, kafka: str, prefix: str) -> None:
    """Commits moved, and not past what an aggregator that saw everything calls safe."""
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        committed = await client.list_consumer_group_offsets(group_of(prefix))
    finally:
        await client.close()
    cores = await _undisturbed(log, prefix)
    offsets = {at.partition: found.offset for at, found in committed.items() if found.offset > 0}
    assert homes() == offsets.keys()
    assert all(offsets[partition] <= (cores[partition][1].safe_offset() or 0) for partition in offsets)


async def _undisturbed(log: Log, prefix: str) -> dict[int, tuple[list[SignalWindow], PartitionAggregator]]:
    """One aggregator a partition that sees every record once, and what it emits."""
    cores: dict[int, tuple[list[SignalWindow], PartitionAggregator]] = {at: ([], PartitionAggregator(at)) for at in range(PARTITIONS)}
    for each in await _records(log, prefix, Topic.TELEMETRY):
        windows, core = cores[each.partition]
        windows += core.handle(each.offset, each.value or b"").windows
    return cores


async def _emitted(log: Log, prefix: str) -> dict[tuple[str, int], set[bytes]]:
    found: dict[tuple[str, int], set[bytes]] = {}
    for value in _values(await _records(log, prefix, Topic.SIGNALS)):
        window = codec.decode(SignalWindow, value)
        found.setdefault((window.service, window.end_ms), set()).add(value)
    return found


def _values(records: Iterable[Record]) -> Iterator[bytes]:
    return (each.value or b"" for each in records)


async def _records(log: Log, prefix: str, topic: Topic) -> list[Record]:
    places = await scan.partitions_of(log, [topic_name(prefix, topic)])
    return [found async for batch in scan.to_end(log, places) for found in batch]
