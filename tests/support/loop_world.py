"""One service for tests of the whole loop on real servers: its spec, its fleet, the moment at which its world begins, its engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from heteroscale.bus.connect import open_log
from heteroscale.bus.log import Entry
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts import codec
from heteroscale.contracts.telemetry import Tick
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from support.plant import Plant
from support.processes import Fleet, environment

SERVICE: Final = "chat"
SERVICES: Final = ("signals", "decision", "placement")
START_MS: Final = 1_780_000_020_000
RATIO: Final = {"prefill": 1, "decode": 2}
LOW: Final = {"decode": 1_500.0, "prefill": 9_000.0}
HIGH: Final = {"decode": 3_900.0, "prefill": 24_000.0}
NODES: Final = tuple(f"{s1}-{n}" for s1 in ("a1", "a2", "b1", "b2") for n in range(6))
SPEC: Final = """
service: chat
fleet: FLEET
mode: active
roles:
  prefill: {min: 1, max: 6, gpus: 8, gpu_types: [{type: H20}]}
  decode: {min: 2, max: 12, gpus: 8, gpu_types: [{type: H20}]}
ratio: {prefill: 1, decode: 2}
window: {size: 60s, hop: 30s, interval: 10s, allowed_lateness: 0s, silence: 30s}
signals:
  - {metric: decode_tps, role: decode, target: 1000}
behavior:
  scale_out: {cooldown: 30s}
  scale_in: {stabilization: 60s, cooldown: 60s, soft: {observe: 60s}}
"""

P = TypeVar("P", bound=Plant)


@contextmanager
def opened(folder: Path, kafka: str, redis_url: str, prefix: str) -> Iterator[Fleet]:
    """A fresh prefix with topics, a fleet of 24 nodes in two s2 and the spec applied; no service runs yet."""
    fleet = f"fleet-{prefix}"
    rows = [
        f"  - {{node: {node}, gpu_type: H20, gpus: 8, at: {{cluster: c1, s2: {node[0].upper()}, s1: {node[:2]}}}, state: ready}}"
        for node in NODES
    ]
    (folder / "fleet.yaml").write_text(f"fleet: {fleet}\nnodes:\n" + "\n".join(rows) + "\n")
    (folder / "spec.yaml").write_text(SPEC.replace("FLEET", fleet))
    with Fleet(environment(kafka, redis_url, prefix, fleet), folder) as processes:
        processes.run("topics", "create", "--keep-forever")
        processes.run("fleet", "import", "fleet.yaml")
        asyncio.run(_set_clock(kafka, prefix))
        processes.run("apply", "spec.yaml")
        yield processes


async def _set_clock(kafka: str, prefix: str) -> None:
    """The first tick: from here on the records' time is the test's."""
    log = await open_log(BusSettings(kafka=kafka))
    name, tick = topic_name(prefix, Topic.TELEMETRY), codec.encode(Tick(at_ms=START_MS))
    await log.append([Entry(name, None, tick, START_MS, partition) for partition in range(CATALOGUE[Topic.TELEMETRY].partitions)])
    await log.close()


@asynccontextmanager
async def plant_of(world: Fleet, kind: type[P]) -> AsyncIterator[P]:
    """The engines of the service under a low load, on the log of its processes."""
    known = world.environment
    log = await open_log(BusSettings(kafka=known["HETEROSCALE_KAFKA"]))
    prefix, fleet = known["HETEROSCALE_PREFIX"], known["HETEROSCALE_FLEET"]
    engines = kind(log, prefix, SERVICE, fleet, START_MS + 10_000, START_MS + 60_000, dict(LOW))
    try:
        yield engines
    finally:
        await engines.close()
        await log.close()
