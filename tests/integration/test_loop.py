"""The whole loop as people run it: each service a process, on real Kafka and real Redis, and what happens when one is killed."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from heteroscale.bus.log import Entry
from heteroscale.contracts.decisions import Action
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.decision.law.ratio import derive
from support import loop_world
from support.loop_world import HIGH, LOW, RATIO, SERVICES, plant_of
from support.plant import Plant
from support.poison import poison
from support.processes import Fleet

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(300)]


@pytest.fixture
def world(tmp_path: Path, kafka: str, redis_url: str, prefix: str) -> Iterator[Fleet]:
    """A fresh prefix with topics, a fleet of 24 nodes in two s2 and the spec applied; no service runs yet."""
    with loop_world.opened(tmp_path, kafka, redis_url, prefix) as processes:
        yield processes


def assert_sound(world: Fleet, plant: Plant) -> None:
    """PAIR, NO-OVERLAP and NO-LEAK as the topics and Redis show them."""
    for decision in plant.decisions:
        replicas = {role: after.replicas for role, after in decision.after.items()}
        assert replicas == derive(replicas["decode"], RATIO, "decode"), decision.id
    for placement in plant.placements:
        held: dict[str, int] = {}
        for group in placement.groups:
            for instance in group.instances:
                for node, gpus in instance.nodes.items():
                    held[node] = held.get(node, 0) + gpus
        assert all(gpus <= 8 for gpus in held.values()), placement
    world.run("inventory", "check")
    assert world.run("dead-letters", "list", "--json").strip() == ""


def test_a_load_step_becomes_reserved_nodes_and_comes_back(world: Fleet) -> None:
    """A spec gives the minimum; a load step gives a pair of each; nodes are reserved and acknowledged; the fall drains softly."""
    for name in SERVICES:
        world.start(name)

    async def scenario() -> None:
        async with plant_of(world, Plant) as plant:
            await plant.settle()
            assert plant.count() == {"prefill": 1, "decode": 2}
            plant.demand = dict(HIGH)
            await plant.hop()
            await plant.hop()
            await plant.settle()
            assert plant.count() == {"prefill": 2, "decode": 4}
            assert plant.assignment is not None
            assert len({group.domain.s2 for group in plant.assignment.groups}) == 1
            plant.demand = dict(LOW)
            actions = [(await plant.hop()).action for _ in range(12)]
            assert Action.SCALE_IN in actions
            assert Action.FINALIZE in actions
            await plant.settle()
            assert plant.count() == {"prefill": 1, "decode": 2}
            assert_sound(world, plant)

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", SERVICES)
def test_the_loop_goes_on_after_kill_9(world: Fleet, victim: str) -> None:
    """After kill -9 of a service under load, and a new process: the next windows are decided and placed, nothing twice."""
    running = {name: world.start(name, extra={"HETEROSCALE_SESSION_TIMEOUT_MS": "6000"}) for name in SERVICES}

    async def scenario() -> None:
        async with plant_of(world, Plant) as plant:
            await plant.settle()
            plant.demand = dict(HIGH)
            running[victim].signal(signal.SIGKILL)
            running[victim].process.wait()
            world.start(victim, wait=False)
            await plant.hop()
            await plant.hop()
            await plant.settle()
            assert plant.count() == {"prefill": 2, "decode": 4}
            at_ms = [decision.at_ms for decision in plant.decisions]
            assert sorted(set(at_ms)) == list(range(at_ms[0], at_ms[-1] + 1, 30_000))
            by_window = {(decision.at_ms, decision.id) for decision in plant.decisions}
            assert len(by_window) == len(set(at_ms)), "two decisions for one window"
            assert_sound(world, plant)

    asyncio.run(scenario())


def test_a_zombie_placement_worker_is_refused_by_its_fence(world: Fleet) -> None:
    """A worker paused past its session, then resumed, changes nothing that the new one planned."""
    for name in ("signals", "decision"):
        world.start(name)
    zombie = world.start("placement", extra={"HETEROSCALE_SESSION_TIMEOUT_MS": "6000"})

    async def scenario() -> None:
        async with plant_of(world, Plant) as plant:
            await plant.settle()
            zombie.signal(signal.SIGSTOP)
            world.start("placement", wait=False)
            plant.demand = dict(HIGH)
            await plant.hop()
            await plant.hop()
            await plant.settle()
            zombie.signal(signal.SIGCONT)
            plant.demand = {"decode": 5_700.0, "prefill": 30_000.0}
            await plant.hop()
            await plant.hop()
            await plant.settle()
            assert plant.count() == {"prefill": 3, "decode": 6}
            sequence = [placement.seq for placement in plant.placements]
            assert len(set(sequence)) == len(sequence), "a placement was written twice under one sequence"
            assert_sound(world, plant)

    asyncio.run(scenario())


def test_the_topics_tell_the_story_by_hand(world: Fleet) -> None:
    """One decision can be followed with the command line alone: window, command, placement, acknowledgement."""
    for name in SERVICES:
        world.start(name)

    async def scenario() -> Plant:
        async with plant_of(world, Plant) as plant:
            await plant.settle()
            return plant

    plant = asyncio.run(scenario())
    story: dict[str, list[dict[str, object]]] = {}
    for topic in ("signals", "decisions", "commands", "placements", "actuations"):
        lines = world.run("topics", "tail", f"{topic}.v1", "--last", "100000", "--json").splitlines()
        story[topic] = [json.loads(line)["value"] for line in lines]
    first = next(decision for decision in story["decisions"] if decision["command_id"] is not None)
    assert any(window["end_ms"] == first["at_ms"] for window in story["signals"])
    assert any(command["id"] == first["command_id"] for command in story["commands"])
    assert any(placement["command_id"] == first["command_id"] for placement in story["placements"])
    assert {acknowledged["instance"] for acknowledged in story["actuations"]} == set(plant.engines)


def test_poison_on_every_topic_ends_in_dead_letters_and_the_loop_goes_on(world: Fleet) -> None:
    """Each bad record has a dead letter with its place, code and payload; decisions and placements come as if it were not there."""
    for name in SERVICES:
        world.start(name)

    async def scenario() -> None:
        async with plant_of(world, Plant) as plant:
            await plant.settle()
            at_ms = plant.now_ms
            entries = []
            for bad in poison("chat", plant.fleet, at_ms):
                key = bad.key or (
                    plant.fleet if CATALOGUE[bad.topic].key == "fleet" else f"{plant.fleet}/n" if bad.topic is Topic.FLEET else "chat"
                )
                entries.append(Entry(topic_name(plant.prefix, bad.topic), key.encode(), bad.value, at_ms))
            offsets = await plant.log.append(entries)
            plant.demand = dict(HIGH)
            await plant.hop()
            await plant.hop()
            await plant.settle()
            assert plant.count() == {"prefill": 2, "decode": 4}
            letters = [json.loads(line) for line in world.run("dead-letters", "list", "--json").splitlines()]
            found = {(letter["topic"], letter["offset"]): letter for letter in letters}
            for entry, offset in zip(entries, offsets, strict=True):
                assert (entry.topic, offset) in found, f"no dead letter for {entry.topic}@{offset}: {entry.value!r}"
                letter = found[entry.topic, offset]
                assert base64.b64decode(letter["payload"]) == entry.value
                assert letter["code"]
            assert all(service.process.poll() is None for service in world.services)
            world.run("inventory", "check")

    asyncio.run(scenario())
