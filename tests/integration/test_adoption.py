"""Brownfield: engines that ran before we came are adopted out of telemetry, by the real command and a real placement process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heteroscale.bus.connect import open_log
from heteroscale.bus.log import Entry
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts import codec
from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples, Tick
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from support.processes import Fleet, environment

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(180)]

NOW_MS = 1_780_000_020_000
ENGINES = {"engine-p": ("prefill", "n0"), "engine-d1": ("decode", "n1"), "engine-d2": ("decode", "n2")}


@pytest.fixture
def world(tmp_path: Path, kafka: str, redis_url: str, prefix: str) -> Iterator[Fleet]:
    """Six nodes; three of them are full with engines that the inventory does not know. A placement process runs."""
    fleet = f"fleet-{prefix}"
    rows = [
        f"  - {{node: n{at}, gpu_type: H20, gpus: 8, used: {8 if at < 3 else 0}, at: {{cluster: c1, s2: A, s1: a1}}, state: ready}}"
        for at in range(6)
    ]
    (tmp_path / "fleet.yaml").write_text(f"fleet: {fleet}\nnodes:\n" + "\n".join(rows) + "\n")
    with Fleet(environment(kafka, redis_url, prefix, fleet), tmp_path) as processes:
        processes.run("topics", "create", "--keep-forever")
        processes.run("fleet", "import", "fleet.yaml")
        asyncio.run(say(kafka, prefix))
        processes.start("placement")
        yield processes


async def say(kafka: str, prefix: str) -> None:
    """Telemetry of the engines, and ticks."""
    log = await open_log(BusSettings(kafka=kafka))
    name = topic_name(prefix, Topic.TELEMETRY)
    samples = [
        InstanceSample(instance=engine, role=role, state=EngineState.SERVING, at_ms=NOW_MS, node=node, gpu_type="H20", gpus=8)
        for engine, (role, node) in ENGINES.items()
    ]
    samples.append(
        InstanceSample(instance="intruder", role="decode", state=EngineState.SERVING, at_ms=NOW_MS, node="n1", gpu_type="H20", gpus=8)
    )
    await log.append([Entry(name, b"chat", codec.encode(Samples(service="chat", samples=samples)), NOW_MS)])
    tick = codec.encode(Tick(at_ms=NOW_MS))
    await log.append([Entry(name, None, tick, NOW_MS, partition) for partition in range(CATALOGUE[Topic.TELEMETRY].partitions)])
    await log.close()


def documents(text: str) -> list[dict[str, Any]]:
    """One JSON document a line."""
    return [json.loads(line) for line in text.splitlines()]


def accounts(world: Fleet) -> dict[str, tuple[int, int, int]]:
    """(free, held, used) per node."""
    rows = documents(world.run("inventory", "show", "--fleet", world.environment["HETEROSCALE_FLEET"], "--json"))
    return {row["node"]: (row["free"], row["held"], row["used"]) for row in rows}


def test_running_engines_are_adopted_and_nothing_of_theirs_is_ever_free(world: Fleet) -> None:
    """A dry run changes nothing; the real one moves their GPUs from used to held, as one group, and names the conflict."""
    fleet = world.environment["HETEROSCALE_FLEET"]
    before = accounts(world)
    assert {"n0": (0, 0, 8), "n3": (8, 0, 0)} == {name: before[name] for name in ("n0", "n3")}
    adopted = {row["instance"]: row["adopted"] for row in documents(world.run("placements", "adopt", "chat", "--fleet", fleet, "--json"))}
    assert dict.fromkeys(["engine-p", "engine-d1", "engine-d2", "intruder"], False) == adopted
    assert before == accounts(world)
    sent = documents(world.run("placements", "adopt", "chat", "--fleet", fleet, "--yes", "--json"))
    assert {"engine-p", "engine-d1", "engine-d2"} == {row["instance"] for row in sent if row["adopted"]}
    assert ["conflict on node n1:"] == [row["reason"][:20] for row in sent if not row["adopted"]]
    (shown,) = shown_when_placed(world)
    (group,) = shown["groups"]
    assert ("A", sorted(ENGINES)) == (group["domain"]["s2"], sorted(one["id"] for one in group["instances"]))
    assert {"ready"} == {one["state"] for one in group["instances"]}
    assert {"n0": (0, 8, 0), "n1": (0, 8, 0), "n2": (0, 8, 0), "n3": (8, 0, 0)} == {
        name: found for name, found in accounts(world).items() if name < "n4"
    }
    shown_nodes = documents(world.run("inventory", "show", "--fleet", fleet, "--json"))
    assert {"n1": "quarantined (adoption_conflict)"} == {row["node"]: row["standing"] for row in shown_nodes if row["standing"] != "ready"}
    assert "ok" in world.run("inventory", "check", "--fleet", fleet)


def shown_when_placed(world: Fleet) -> list[dict[str, Any]]:
    """What `placements show` says as soon as there is something."""
    for _ in range(40):
        try:
            return documents(world.run("placements", "show", "chat", "--json"))
        except AssertionError:
            time.sleep(0.25)
    raise AssertionError("no Placement after ten seconds")
