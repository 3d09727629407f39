"""ONCE and level-triggered: whatever the log repeats or reorders, and however often an actuator starts anew, the end is the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from heteroscale.actuation import app, kubernetes_api
from heteroscale.actuation.settings import ActuatorKind, ActuatorSettings
from heteroscale.bus import catalogue
from heteroscale.bus.log import Log
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.topics import Topic
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support import builders
from support.fake_cluster import FakeCluster
from support.receiver import Receiver

AtEnd = list[Callable[[], Awaitable[None]]]
PREFIX = "memory"
TOPICS = (Topic.PLACEMENTS, Topic.COMMANDS, Topic.ACTUATIONS, Topic.DEAD_LETTERS, Topic.TELEMETRY)
READY, STOPPING = InstanceState.READY, InstanceState.STOPPING
STORY: tuple[Mapping[str, InstanceState], ...] = (
    {"a": InstanceState.RESERVED},
    {"a": READY, "b": InstanceState.RESERVED, "c": InstanceState.RESERVED},
    {"a": READY, "b": READY, "c": READY},
    {"a": STOPPING, "b": READY, "c": READY, "d": InstanceState.RESERVED},
    {"b": READY, "c": STOPPING, "d": READY},
    {"b": READY, "d": READY},
)
END = ["b", "d"]
Look = Callable[[], object]


def history(seed: int) -> list[list[Placement]]:
    """The story in three sittings: each record there at least once, some again, some late; the newest is in the last sitting."""
    chance = random.Random(seed)
    told = [
        builders.placement("chat", *(builders.instance(name, state=state, routable=state is READY) for name, state in now.items()), seq=seq)
        for seq, now in enumerate(STORY, 1)
    ]
    told += chance.choices(told[:-1], k=6)
    chance.shuffle(told)
    cuts = sorted(chance.sample(range(1, len(told)), 2))
    sittings = [told[: cuts[0]], told[cuts[0] : cuts[1]], told[cuts[1] :]]
    sittings[2].append(max(told, key=lambda one: one.seq or 0))
    return sittings


@asynccontextmanager
async def a_file(tmp_path: Path, _at_end: AtEnd, _patch: pytest.MonkeyPatch) -> AsyncIterator[tuple[dict[str, Any], Look]]:
    """Desired state and routes as files."""
    settings = {"actuator_kind": ActuatorKind.FILE, "actuator_directory": str(tmp_path / "state"), "actuator_registrar": str(tmp_path)}

    def look() -> object:
        try:
            state, routes = (orjson.loads(path.read_bytes()) for path in (tmp_path / "state" / "chat.json", tmp_path / "chat.json"))
        except FileNotFoundError:
            return None
        return sorted(one["id"] for one in state["instances"]), [one["instance"] for one in routes["roles"].get("prefill", [])]

    yield settings, look


@asynccontextmanager
async def a_webhook(_tmp_path: Path, at_end: AtEnd, _patch: pytest.MonkeyPatch) -> AsyncIterator[tuple[dict[str, Any], Look]]:
    """A receiver that keeps what came last, of desired state and of routes."""
    receiver = Receiver()
    await receiver.start(at_end)
    settings = {"actuator_kind": ActuatorKind.WEBHOOK, "actuator_url": receiver.url, "actuator_registrar": f"{receiver.url}/routes"}

    def look() -> object:
        newest = {one.method: orjson.loads(one.body) for one in receiver.requests}
        if newest.keys() != {"POST", "PUT"}:
            return None
        routed = [one["instance"] for one in newest["PUT"]["roles"].get("prefill", [])]
        return sorted(one["id"] for one in newest["POST"]["instances"]), routed

    yield settings, look


@asynccontextmanager
async def a_cluster(tmp_path: Path, _at_end: AtEnd, patch: pytest.MonkeyPatch) -> AsyncIterator[tuple[dict[str, Any], Look]]:
    """A Deployment whose pods carry the instances; a controller that lives meanwhile."""
    (tmp_path / "targets.yaml").write_text("targets: [{service: chat, role: prefill, namespace: llm, name: chat-prefill}]")
    settings = {
        "actuator_kind": ActuatorKind.KUBERNETES,
        "actuator_targets": str(tmp_path / "targets.yaml"),
        "actuator_drain_ms": 0,
    }
    patch.setattr("heteroscale.actuation.kubernetes.BUSY_S", 0.05)
    async with FakeCluster() as cluster:
        cluster.add_target("chat-prefill")
        patch.setattr(kubernetes_api, "client", cluster.client)

        async def live() -> None:
            while True:
                cluster.tick()
                await asyncio.sleep(0.02)

        def look() -> object:
            carried = cluster.instances()
            routed = [name for name in sorted(carried) if cluster.pods[carried[name]]["labels"]["heteroscale.io/routable"] == "true"]
            return (sorted(carried), routed) if cluster.targets["chat-prefill"]["replicas"] == len(cluster.pods) else None

        living = asyncio.create_task(live())
        yield settings, look
        living.cancel()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("edge", [a_file, a_webhook, a_cluster])
async def test_the_end_is_the_same_however_it_was_told(
    memory_log: Log,
    tmp_path: Path,
    at_end: AtEnd,
    monkeypatch: pytest.MonkeyPatch,
    edge: Callable[..., Any],
    seed: int,
) -> None:
    """Two restarts, records twice and out of order: the newest assignment is carried out and routed, and nothing is left of others."""
    await catalogue.create(memory_log, PREFIX, topics=TOPICS)
    async with edge(tmp_path, at_end, monkeypatch) as (settings, look):
        sittings = history(seed)
        for sitting in sittings:
            context = Context(log=memory_log, prefix=PREFIX, health=Health())
            serving = asyncio.create_task(app.serve(context, ActuatorSettings(**settings)))
            for placement in sitting:
                await memory_log.append([builders.placement_entry(PREFIX, placement)])
                await asyncio.sleep(0.01)
            if sitting is sittings[-1]:
                async with asyncio.timeout(10):
                    while look() != (END, END):
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                assert (END, END) == look(), "and it stays so"
            context.stop.set()
            await asyncio.wait_for(serving, 5)
