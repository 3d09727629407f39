"""Replay: telemetry samples verified per second and core, end to end, beside what reading the same records alone takes.

PYTHONPATH=tests python tests/benchmarks/replay.py [--minutes 20] [--instances 500] [--histograms]

From a bundle on disk, and straight from a real Kafka (HETEROSCALE_KAFKA) where kcat reads the same range too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from heteroscale.bus import catalogue, connect
from heteroscale.bus.log import Entry, Log
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.partitioning import partition_of
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts import codec
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import EngineState, Histogram, InstanceSample, Samples, Tick
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.contracts.units import instant_text
from heteroscale.replay import bundle, capture, frames, verify
from heteroscale.replay.manifest import Span
from heteroscale.replay.verdict import StageName
from heteroscale.signals.aggregator import PartitionAggregator
from support import brokers

START_MS = 1_767_571_200_000
BATCH = 50
EDGES = [0.005 * 1.5**at for at in range(20)]
APPENDED = 200  # entries at once
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


async def fill(log: Log, prefix: str, arguments: argparse.Namespace) -> int:
    """Telemetry, the windows it gives and the spec; how many samples."""
    await catalogue.create(log, prefix, keep_forever=True)
    spec = codec.convert(ServiceSpec, SPEC)
    await log.append([Entry(topic_name(prefix, Topic.SPECS), b"chat", codec.encode(spec), START_MS)])
    partition = partition_of(b"chat", 12)
    aggregator = PartitionAggregator(partition)
    aggregator.learn("chat", spec, START_MS)
    count, waiting = 0, list[Entry]()
    for offset, (at_ms, key, value) in enumerate(telemetry(arguments.minutes, arguments.instances, histograms=arguments.histograms)):
        waiting.append(Entry(topic_name(prefix, Topic.TELEMETRY), key, value, at_ms, partition))
        count += 0 if key is None else value.count(b'"instance":')
        windows = aggregator.handle(offset, value).windows
        waiting += [Entry(topic_name(prefix, Topic.SIGNALS), b"chat", codec.encode(one), one.end_ms, partition) for one in windows]
        if len(waiting) >= APPENDED:
            await log.append(waiting)
            waiting = []
    await log.append(waiting)
    return count


def span_of(arguments: argparse.Namespace) -> Span:
    """All of it."""
    return Span(from_ms=START_MS, to_ms=START_MS + arguments.minutes * 60_000)


def line(what: str, samples: int, cpu_s: float, wall_s: float) -> None:
    """One row of the table."""
    sys.stdout.write(f"{what:50}{samples / cpu_s:>14,.0f}{samples / wall_s:>14,.0f}\n")


def verified(folder: Path, samples: int) -> None:
    """The signals stage over a bundle on disk."""
    cpu, wall = time.process_time(), time.perf_counter()
    verdict = verify.verify(bundle.open_folder(folder), stages=[StageName.SIGNALS])
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    line(f"replay BUNDLE, {verdict.stage(StageName.SIGNALS).compared} windows, {verdict.outcome.value}", samples, cpu, wall)


def on_disk(folder: Path, samples: int) -> None:
    """What there is, reading it, and verifying it."""
    path = folder / "topics" / "telemetry.v1.jsonl.zst"
    cpu, wall = time.process_time(), time.perf_counter()
    size = sum(len(block) for block in frames.blocks(path))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    sys.stdout.write(f"{samples:,} samples, {size / 1e6:.0f} MB of telemetry in {path.stat().st_size / 1e6:.1f} MB\n")
    sys.stdout.write(f"{'samples a second':50}{'of a core':>14}{'by the clock':>14}\n")
    line("decompress the bundle's telemetry", samples, cpu, wall)
    verified(folder, samples)


def children_s() -> float:
    """Processor time of finished children."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def child(what: str, samples: int, command: list[str]) -> None:
    """A command's time, its own and by the clock."""
    cpu, wall = children_s(), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    line(what, samples, children_s() - cpu, time.perf_counter() - wall)


def from_kafka(kafka: str, prefix: str, samples: int, arguments: argparse.Namespace) -> None:
    """The records through kcat, then the whole command: range look-up, reading, verifying."""
    kcat = shutil.which("kcat")
    if kcat is None:
        sys.stdout.write("no kcat to read the same range with; apt-get install kcat\n")
    else:
        topic = topic_name(prefix, Topic.TELEMETRY)
        child("kcat, the same records to /dev/null", samples, [kcat, "-C", "-q", "-b", kafka, "-t", topic, "-o", "beginning", "-e"])
    span = span_of(arguments)
    instants = ["--from", instant_text(span.from_ms), "--to", instant_text(span.to_ms)]
    command = [sys.executable, "-m", "heteroscale.cli.main", "replay", *instants, "-s", "chat", "--kafka", kafka, "--prefix", prefix]
    child("replay --from --to, out of Kafka", samples, command)


async def main() -> None:
    """A table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--histograms", action="store_true")
    arguments = parser.parse_args()
    sys.stdout.write(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    kafka, prefix = os.environ.get("HETEROSCALE_KAFKA"), brokers.unique_prefix()
    log = MemoryLog() if kafka is None else await connect.open_log(BusSettings(kafka=kafka))
    try:
        samples = await fill(log, prefix, arguments)
        with TemporaryDirectory() as own:
            await capture.capture(log, capture.Wanted(prefix, span_of(arguments)), Path(own) / "bundle")
            on_disk(Path(own) / "bundle", samples)
        if kafka is None:
            sys.stdout.write("no Kafka to read from; set HETEROSCALE_KAFKA\n")
        else:
            from_kafka(kafka, prefix, samples, arguments)
    finally:
        await log.close()
        if kafka is not None:
            await brokers.delete_topics(kafka, prefix)


if __name__ == "__main__":
    asyncio.run(main())
