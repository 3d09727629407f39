"""Replay: telemetry samples verified per second and core, end to end from a bundle on disk, and what reading it alone takes.

python tests/benchmarks/replay.py [--minutes 30] [--instances 200]
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from heteroscale.bus.log import Entry, TopicLayout
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.partitioning import partition_of
from heteroscale.contracts import codec
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import EngineState, Histogram, InstanceSample, Samples, Tick
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.replay import bundle, capture, frames, verify
from heteroscale.replay.manifest import Span
from heteroscale.replay.verdict import StageName
from heteroscale.signals.aggregator import PartitionAggregator

START_MS = 1_767_571_200_000
BATCH = 50
EDGES = [0.005 * 1.5**at for at in range(20)]
PREFIX = "bench"
SPEC = {
    "service": "chat",
    "roles": {"prefill": {"min": 1, "max": 900, "gpus": 8}, "decode": {"min": 1, "max": 900, "gpus": 8}},
    "ratio": {"prefill": 1, "decode": 1},
    "signals": [{"metric": "decode_tps", "role": "decode", "target": 1000}],
    "revision": 1,
    "applied_at_ms": START_MS,
}


def telemetry(minutes: int, instances: int, *, histograms: bool) -> Iterator[tuple[int, bytes | None, bytes]]:
    """Records of one service: a sample an instance each 5 s, 50 to a record, and a tick a second."""
    for second in range(minutes * 60):
        at_ms = START_MS + second * 1_000
        if second % 5 == 0:
            samples = [sample(number, second, at_ms, histograms=histograms) for number in range(instances)]
            for start in range(0, instances, BATCH):
                record = Samples(service="chat", source="bench", layouts={"tbt": EDGES}, samples=samples[start : start + BATCH])
                yield at_ms, b"chat", codec.encode(record)
        yield at_ms, None, codec.encode(Tick(at_ms=at_ms))


def sample(number: int, second: int, at_ms: int, *, histograms: bool) -> InstanceSample:
    """One instance at one moment."""
    counts = Histogram(layout="tbt", counts=[second * 7 + edge for edge in range(21)], sum_s=second * 3.5) if histograms else None
    return InstanceSample(
        instance=f"i{number:04d}", role="decode" if number % 2 else "prefill", state=EngineState.SERVING, at_ms=at_ms,
        node=f"n{number:04d}", gpu_type="H20", gpus=8, started_at_ms=START_MS, generation_tokens=second * 900 + number,
        prompt_tokens=second * 4_000, running=12, waiting=1, kv_usage=0.4, gpu_util=0.8, tbt=counts, ttft=counts,
    )  # fmt: skip


async def recorded(folder: Path, arguments: argparse.Namespace) -> int:
    """A bundle with telemetry and the windows it gives; how many samples."""
    log = MemoryLog()
    for topic in Topic:
        await log.create_topics([TopicLayout(topic_name(PREFIX, topic), CATALOGUE[topic].partitions, {})])
    spec = codec.convert(ServiceSpec, SPEC)
    await log.append([Entry(topic_name(PREFIX, Topic.SPECS), b"chat", codec.encode(spec), START_MS)])
    partition = partition_of(b"chat", 12)
    aggregator = PartitionAggregator(partition)
    aggregator.learn("chat", spec, START_MS)
    count = 0
    for offset, (at_ms, key, value) in enumerate(telemetry(arguments.minutes, arguments.instances, histograms=arguments.histograms)):
        await log.append([Entry(topic_name(PREFIX, Topic.TELEMETRY), key, value, at_ms, partition)])
        count += 0 if key is None else value.count(b'"instance":')
        windows = aggregator.handle(offset, value).windows
        if windows:
            await log.append(
                [Entry(topic_name(PREFIX, Topic.SIGNALS), b"chat", codec.encode(one), one.end_ms, partition) for one in windows]
            )
    await capture.capture(log, capture.Wanted(PREFIX, Span(from_ms=START_MS, to_ms=START_MS + arguments.minutes * 60_000)), folder)
    return count


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--histograms", action="store_true")
    arguments = parser.parse_args()
    sys.stdout.write(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    with TemporaryDirectory() as own:
        folder = Path(own) / "bundle"
        count = asyncio.run(recorded(folder, arguments))
        path = folder / "topics" / "telemetry.v1.jsonl.zst"
        began = time.process_time()
        size = sum(len(block) for block in frames.blocks(path))
        reading = time.process_time() - began
        began = time.process_time()
        verdict = verify.verify(bundle.open_folder(folder), stages=[StageName.SIGNALS])
        took = time.process_time() - began
        signals = verdict.stage(StageName.SIGNALS)
        sys.stdout.write(f"{count:,} samples, {size / 1e6:.0f} MB of telemetry in {path.stat().st_size / 1e6:.1f} MB\n")
        sys.stdout.write(f"decompress alone: {count / reading:,.0f} samples/s\n")
        sys.stdout.write(f"verify, {signals.compared} windows, {verdict.outcome.value}: {count / took:,.0f} samples/s of one core's time\n")


if __name__ == "__main__":
    main()
