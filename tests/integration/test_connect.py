"""What the page on connecting says, done: an engine's telemetry arrives, an actuator of one's own is obeyed. Real Kafka, real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from heteroscale.bus import catalogue, scan
from heteroscale.bus.log import Log
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.placements import InstanceState
from heteroscale.contracts.telemetry import InstanceSample, Samples
from heteroscale.contracts.topics import Topic, topic_name
from support import builders
from support.fake_engines import FakeEngines, vllm_page

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
WITHIN_S = 40.0


async def started(kafka: str, prefix: str, *arguments: str) -> asyncio.subprocess.Process:
    """A Python process that knows where the log is."""
    environment = os.environ | {"HETEROSCALE_KAFKA": kafka, "HETEROSCALE_PREFIX": prefix, "HETEROSCALE_HTTP_PORT": "none"}
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment, cwd=ROOT)


async def ended(process: asyncio.subprocess.Process) -> int:
    """Asked to end as an orchestrator asks; its exit code."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        return await process.wait()


async def samples(log: Log, prefix: str) -> list[InstanceSample]:
    """All on telemetry.v1."""
    places = await scan.partitions_of(log, [topic_name(prefix, Topic.TELEMETRY)])
    records = [codec.decode(Samples, record.value or b"") async for batch in scan.to_end(log, places) for record in batch]
    return [sample for record in records for sample in record.samples]


async def test_an_exporter_process_publishes_until_it_is_told_to_end(kafka: str, kafka_log: Log, prefix: str) -> None:
    """`heteroscale export --url`: growing counters on the topic, exit code 0 after SIGTERM."""
    tokens = iter(range(100, 1_000_000, 100))
    async with FakeEngines() as engines:
        engines.pages = {"metrics": lambda: vllm_page(next(tokens))}
        options = ["--service", "chat", "--role", "prefill", "--every", "200ms", "--url", engines.url("metrics")]
        process = await started(kafka, prefix, "-m", "heteroscale.cli.main", "export", *options)
        try:
            async with asyncio.timeout(WITHIN_S):
                while (
                    topic_name(prefix, Topic.TELEMETRY) not in await kafka_log.describe_topics()
                    or len(await samples(kafka_log, prefix)) < 5
                ):
                    await asyncio.sleep(0.2)
        finally:
            code = await ended(process)
    found = [sample.generation_tokens or 0 for sample in await samples(kafka_log, prefix)]
    assert sorted(found) == found
    assert 0 == code


async def test_the_example_engine_publishes(kafka: str, kafka_log: Log, prefix: str) -> None:
    """examples/engine_loop.py: a sample a second, with a histogram, all delivered when it ends."""
    await catalogue.create(kafka_log, prefix, topics=[Topic.TELEMETRY])
    process = await started(kafka, prefix, "examples/engine_loop.py", "--seconds", "2")
    async with asyncio.timeout(WITHIN_S):
        assert 0 == await process.wait()
    found = await samples(kafka_log, prefix)
    assert len(found) >= 2
    assert all(sample.tbt is not None and sum(sample.tbt.counts) == sample.generation_tokens for sample in found)


async def test_the_example_actuator_obeys_and_picks_up_again(kafka: str, kafka_log: Log, prefix: str) -> None:
    """examples/actuator.py: ready for what is reserved, stopped for what is to stop, also when it was started anew in between.

    What it says is so: after ready the engine runs, also without the actuator; after stopped no process is left.
    """
    await catalogue.create(kafka_log, prefix, keep_forever=True)
    pid_file = Path(tempfile.gettempdir(), f"{prefix}-a.pid")

    async def told(seq: int, state: InstanceState, expected: str) -> None:
        one = builders.instance("a", state=state)
        await kafka_log.append([builders.placement_entry(prefix, builders.placement("chat", one, seq=seq))])
        process = await started(kafka, prefix, "examples/actuator.py")
        try:
            async with asyncio.timeout(WITHIN_S):
                while (await _said(kafka_log, prefix))[-1:] != [("a", expected)]:
                    await asyncio.sleep(0.2)
        finally:
            await ended(process)

    await told(1, InstanceState.RESERVED, "ready")
    pid = await asyncio.to_thread(pid_file.read_text)
    assert await _runs(pid)
    await told(2, InstanceState.STOPPING, "stopped")
    assert not await _runs(pid)


async def _said(log: Log, prefix: str) -> list[tuple[str, str]]:
    places = await scan.partitions_of(log, [topic_name(prefix, Topic.ACTUATIONS)])
    found = [codec.decode(Actuation, record.value or b"") async for batch in scan.to_end(log, places) for record in batch]
    return [(one.instance, one.kind.value) for one in found]


async def _runs(pid: str) -> bool:
    """Whether a process does more than wait to be buried."""
    shown = await asyncio.create_subprocess_exec("ps", "-o", "stat=", "-p", pid.strip(), stdout=asyncio.subprocess.PIPE)
    state, _ = await shown.communicate()
    return bool(state.strip()) and not state.startswith(b"Z")
