"""The world by itself, answered by a stand-in loop: conservation, lockstep, faults, and figures recomputed by other code."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from heteroscale.bus import catalogue
from heteroscale.bus.log import Record, TopicPartition
from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts.errors import Broken, Rejected
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.runtime.clock import SYSTEM
from heteroscale.simulator import closing
from heteroscale.simulator.cluster import faults, world
from heteroscale.simulator.cluster.world import Scene, World
from heteroscale.simulator.figures.seen import Seen
from heteroscale.simulator.load.traffic import CACHED, REQUESTS
from heteroscale.simulator.loop.lockstep import Lockstep
from heteroscale.simulator.model import profiles
from support.simulation_cast import scene
from support.stub_loop import StubLoop

COUNTS = {"chat": {"prefill": 20, "decode": 4}, "code": {"prefill": 10, "decode": 1}}


@asynccontextmanager
async def staged(here: Scene, counts: dict[str, dict[str, int]], timeout_s: float = 10.0) -> AsyncIterator[tuple[Lockstep, MemoryLog]]:
    """A world in lockstep with the stand-in."""
    log = MemoryLog()
    await catalogue.create(log, here.prefix)
    built = world.build(here)
    stub = StubLoop(log, here.prefix, built.specs, counts, here.opens_at_ms)
    task = asyncio.create_task(stub.run())
    steps = Lockstep(built, log, SYSTEM, timeout_s, lambda: repr(task.exception()) if task.done() else None)
    try:
        await steps.open()
        yield steps, log
    finally:
        await steps.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def records(log: MemoryLog, topic: Topic) -> list[Record]:
    """All records of a topic."""
    places = [TopicPartition(topic_name("t", topic), index) for index in range(CATALOGUE[topic].partitions)]
    reader = log.reader(await log.begin_offsets(places))
    return await reader.poll(timeout_ms=10, records_max=1_000_000)


async def played(here: Scene, counts: dict[str, dict[str, int]]) -> tuple[World, MemoryLog]:
    """The scene to its end."""
    async with staged(here, counts) as (steps, log):
        await steps.play(here.ends_at_ms + 1, lambda *_: None)
        return steps.world, log


async def test_every_request_is_served_queued_or_given_up() -> None:
    """Conservation of requests and of tokens: offered = finished + waiting + given up, also with a fleet that is far too small."""
    starved = {"chat": {"prefill": 5, "decode": 1}, "code": {"prefill": 1, "decode": 1}}
    here, _ = await played(scene(0.5), starved)
    for model in here.models.values():
        ledger = model.ledger
        assert ledger.given_up[REQUESTS] > 0
        assert ledger.offered == pytest.approx(model.load.sum(axis=0) - [0.0, model.load[:, CACHED].sum(), 0.0, 0.0])
        assert ledger.offered == pytest.approx(ledger.finished + ledger.given_up + model.waiting())


async def test_telemetry_carries_what_was_served() -> None:
    """Counters on telemetry.v1 add up to the requests and tokens that engines finished."""
    here, log = await played(scene(0.5), COUNTS)
    last: dict[str, dict[str, object]] = {}
    for record in await records(log, Topic.TELEMETRY):
        document = json.loads(record.value or b"{}")
        for sample in document.get("samples", []):
            last[sample["instance"]] = sample
    finished: dict[str, float] = defaultdict(float)
    for name, sample in last.items():
        if sample["role"] == "decode":
            finished[name.split("-")[0]] += float(str(sample["requests_finished"]))
    for name, model in here.models.items():
        assert model.ledger.finished[REQUESTS] == pytest.approx(finished[name], abs=5)  # whole numbers an instance


async def test_the_same_seed_gives_the_same_bytes() -> None:
    """Telemetry of two runs is equal byte for byte; another seed's is not."""
    runs = []
    for seed in (1, 1, 2):
        _, log = await played(scene(0.2, seed=seed), COUNTS)
        runs.append([record.value for record in await records(log, Topic.TELEMETRY)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


async def test_figures_are_those_of_independent_arithmetic() -> None:
    """GPU-hours, utilisation, requests and TTFT attainment from raw JSON and the measured curves, without any of the report's code."""
    here = scene(0.5)
    built, log = await played(here, COUNTS)
    figures = await closing.close(log, here, built.models)
    seconds: dict[str, float] = defaultdict(float)
    born: dict[str, tuple[int, int]] = {}
    for record in await records(log, Topic.PLACEMENTS):
        for group in json.loads(record.value or b"")["groups"]:
            for instance in group["instances"]:
                born.setdefault(instance["id"], (record.timestamp_ms, sum(instance["nodes"].values())))
    for since_ms, gpus in born.values():
        seconds["all"] += gpus * (here.ends_at_ms - max(since_ms, here.start_ms)) / 1000
    assert round(seconds["all"] / 3600, 3) == figures.summary.gpu_hours
    assert figures.summary.gpu_util == pytest.approx(await work_seconds(here, log) / seconds["all"], abs=1e-4)
    first: dict[str, list[float]] = {}
    final: dict[str, list[float]] = {}
    for record in await records(log, Topic.TELEMETRY):
        document = json.loads(record.value or b"")
        for sample in document.get("samples", []):
            if sample["role"] != "prefill" or sample["ttft"] is None:
                continue
            inside = sum(1 for edge in document["layouts"]["ttft"] if edge <= (2.0 if document["service"] == "chat" else 1.5))
            point = [sum(sample["ttft"]["counts"][:inside]), sum(sample["ttft"]["counts"])]
            if sample["at_ms"] <= here.start_ms:
                first[sample["instance"]] = point
            elif sample["at_ms"] <= here.ends_at_ms:
                final[sample["instance"]] = point
    met = sum(point[0] - first.get(name, [0, 0])[0] for name, point in final.items())
    offered = sum(float(trace.totals[:, REQUESTS].sum()) for trace in here.traffic)
    assert round(offered) == figures.summary.requests
    assert round(met / offered, 4) == round(figures.summary.ttft_attainment or 0, 4)


async def work_seconds(here: Scene, log: MemoryLog) -> float:
    """GPU-seconds of work: tokens between the counted instants over the rate of the service's mean lengths within its TBT target."""
    tokens: dict[tuple[str, str, str], list[float]] = {}
    for record in await records(log, Topic.TELEMETRY):
        document = json.loads(record.value or b"")
        for sample in document.get("samples", []):
            if sample["state"] != "serving" or sample["at_ms"] > here.ends_at_ms:
                continue
            done = sample["generation_tokens"] if sample["role"] == "decode" else sample["prompt_tokens"] - sample["cached_prompt_tokens"]
            first_last = tokens.setdefault((document["service"], sample["role"], sample["instance"]), [0.0, 0.0])
            first_last[sample["at_ms"] > here.start_ms] = done
    spent = 0.0
    for spec, trace in zip(here.specs, here.traffic, strict=True):
        requests, prompt, output, _ = trace.totals.sum(axis=0)
        curves = profiles.load("h20_deepseek_r1" if spec.roles["decode"].gpu_types[0].type == "H20" else "h200_llama8b")
        (prefill,), (decode,) = curves.prefill.values(), curves.decode.values()
        within = (spec.slo.tbt.ms if spec.slo and spec.slo.tbt else 0) / 1000
        context = prompt / requests + output / requests / 2
        rates = {
            "prefill": float(np.interp(prompt / requests, prefill.isl, prefill.tokens_per_s)) / prefill.engine_gpus,
            "decode": decode.rate_within(context, within) / decode.engine_gpus,
        }
        for (service, role, _), (first, last) in tokens.items():
            spent += (last - first) / rates[role] if service == spec.service and last else 0.0
    return spent


async def test_a_lost_leaf_takes_its_engines_and_heals() -> None:
    """Nodes are said to be lost, their engines fall silent, and after healing their end is acknowledged."""
    here = scene(0.4, "node:srv1101@5m+5m", "instance:chat/prefill@2m")
    built, log = await played(here, COUNTS)
    states = [json.loads(record.value or b"")["state"] for record in await records(log, Topic.FLEET) if record.key == b"default/srv1101"]
    assert ["ready", "lost", "ready"] == states
    kinds = [json.loads(record.value or b"")["kind"] for record in await records(log, Topic.ACTUATIONS)]
    assert 1 == kinds.count("failed")
    assert {"chat": 23, "code": 11} == {name: len(model.engines) for name, model in built.models.items()}


async def test_time_stands_still_until_all_have_answered() -> None:
    """Without the stand-in's answers the wait ends in a message that names service, window and topic."""
    here = scene(0.2)
    async with staged(here, COUNTS, timeout_s=0.3) as (steps, _):
        steps.seen = Deaf()
        with pytest.raises(Broken, match=r"the Decision of chat for the window that ends .* on t\.decisions\.v1"):
            await steps.play(here.ends_at_ms, lambda *_: None)


class Deaf(Seen):
    """Hears nothing."""

    def take(self, topic: Topic, value: bytes) -> None:
        """Not a word."""


@pytest.mark.parametrize("text", ["s1@3h", "rack:a@3h", "node:srv1101@soon", "node:srv1101@1h+x"])
def test_a_bad_fault_is_refused_with_an_example(text: str) -> None:
    """The message shows the form."""
    with pytest.raises(Rejected, match="KIND:NAME@TIME"):
        faults.parse(text)


@pytest.mark.parametrize(
    ("text", "known"), [("s1:leaf-9@1m", "leaf-1-1"), ("node:nosuch@1m", "srv"), ("instance:nosuch@1m", "chat/decode, chat/prefill")]
)
def test_a_fault_that_names_nothing_is_refused(text: str, known: str) -> None:
    """Unknown nodes, pods and instances are named with some that exist."""
    with pytest.raises(Rejected, match=known):
        world.build(scene(0.2, text))


def test_a_fault_after_the_end_is_refused() -> None:
    """It would never strike, and the run would look as if it had been survived; just before the end it is taken."""
    with pytest.raises(Rejected, match=r"node:srv1101 would strike at 12m, and what is played ends after 12m"):
        world.build(scene(0.2, "node:srv1101@12m"))
    assert 1 == len(world.build(scene(0.2, "node:srv1101@719s")).due)


def test_an_instance_that_does_not_run_when_it_should_fail_is_refused() -> None:
    """A name that could be one is known for none only then: the message says when, and who runs."""
    here = world.build(scene(0.2, "instance:chat-prefill-0@1m"))
    here.now_ms = here.scene.start_ms + 60_000
    with pytest.raises(Rejected, match=r"no instance chat-prefill-0 runs 1m into the trace; the first that do are none at all"):
        here.strike()
