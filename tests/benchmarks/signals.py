"""How fast signals are: samples a second of one core's time, from bytes to closed windows. `python tests/benchmarks/signals.py`.

The bare core over records of several sizes, fleets and windows; the same records through Kafka and our Faust worker, through a Faust
hopping-window table, and through a plain loop over dicts. Kafka is the one at HETEROSCALE_KAFKA; without it those rows are left out.
Rates are per second of CPU time of this process, so that neighbours on the machine do not show.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import faust
import msgspec
import numpy as np

from heteroscale.bus import catalogue, scan
from heteroscale.bus.kafka import KafkaLog
from heteroscale.bus.log import Entry, TopicLayout
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts import codec
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import Samples, Tick
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import logs
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.settings import LogFormat, LogLevel, Switch
from heteroscale.signals import app
from heteroscale.signals.aggregator import PartitionAggregator
from heteroscale.signals.settings import SignalsSettings
from heteroscale.signals.table import SAMPLES_PER_INSTANCE_MAX

ORIGIN_MS = 1_732_000_020_000
EDGES = [round(0.01 * 1.3**k, 6) for k in range(20)]
INTERVAL_S = 5
STRETCH_S = 30
SERVICE = "chat"


class Load(NamedTuple):
    """Telemetry of `instances`, each every 5 s, in records of at most `batch` samples, for `seconds`."""

    instances: int
    batch: int
    seconds: int
    histograms: bool = False

    @property
    def samples(self) -> int:
        """How many samples that is."""
        return self.instances * self.seconds // INTERVAL_S


def _sample(load: Load, instance: int, second: int, at_ms: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "instance": f"i-{instance:05d}", "role": "decode", "state": "serving", "node": f"n-{instance // 8}", "gpu_type": "H20", "gpus": 8,
        "at_ms": at_ms, "started_at_ms": ORIGIN_MS - 10**6, "generation_tokens": 10**6 + second * (3_000 + instance % 100),
        "prompt_tokens": second * 500, "cached_prompt_tokens": second * 200, "requests_finished": second,
        "running": 12, "waiting": instance % 3,
        "kv_usage": 0.345, "gpu_util": 0.91, "sm_active": None,
    }  # fmt: skip
    if load.histograms:
        counts = [second * (1 + bucket % 5) for bucket in range(21)]
        document["ttft"] = document["tbt"] = {"layout": "l", "counts": counts, "sum_s": float(second)}
    return document


def payloads(load: Load) -> Iterator[bytes]:
    """The records in time order, a tick after each second."""
    encode = msgspec.json.Encoder().encode
    for second in range(load.seconds):
        due = range(second % INTERVAL_S, load.instances, INTERVAL_S)
        for start in range(0, len(due), load.batch):
            samples = [_sample(load, each, second, ORIGIN_MS + second * 1_000 + each % 7) for each in due[start : start + load.batch]]
            record: dict[str, Any] = {"kind": "samples", "service": SERVICE, "source": "bench", "samples": samples}
            yield encode(record | {"layouts": {"l": EDGES}} if load.histograms else record)
        yield encode({"kind": "tick", "at_ms": ORIGIN_MS + second * 1_000 + 900})


def _spec(size_s: int, hop_s: int) -> ServiceSpec:
    document = {
        "service": SERVICE, "roles": {"decode": {"min": 1, "max": 9, "gpus": 8}}, "ratio": {"decode": 1}, "signals": [], "revision": 1,
        "applied_at_ms": 0, "window": {"size": f"{size_s}s", "hop": f"{hop_s}s"},
    }  # fmt: skip
    return codec.convert(ServiceSpec, document)


def bare(load: Load, window: tuple[int, int] = (60, 15)) -> float:
    """Samples/s of CPU time in the core, windows filled first: the best of several stretches of two hops or more."""
    records = list(payloads(load))
    core = PartitionAggregator(0)
    core.learn(SERVICE, _spec(*window), 0)
    stretch_s = max(STRETCH_S, 2 * window[1])
    warm = len(records) * (window[0] + 10) // load.seconds
    for offset in range(warm):
        core.handle(offset, records[offset])
    stretch = len(records) * stretch_s // load.seconds
    best = 0.0
    for start in range(warm, len(records) - stretch + 1, stretch):
        began = time.process_time()
        for offset in range(start, start + stretch):
            core.handle(offset, records[offset])
        best = max(best, load.samples * stretch_s / load.seconds / (time.process_time() - began))
    return best


def decode_alone(load: Load) -> float:
    """Samples/s of the typed JSON decode of the contract's own messages."""
    records = list(payloads(load))
    decode = msgspec.json.Decoder(Samples | Tick).decode
    began = time.process_time()
    for record in records:
        decode(record)
    return load.samples / (time.process_time() - began)


def dict_loop(load: Load) -> float:
    """Samples/s of the plainest thing that could give a rate: json, a dict of last values, differences summed per 15 s."""
    records = list(payloads(load))
    began = time.process_time()
    last: dict[tuple[str, str], float] = {}
    panes: dict[int, float] = {}
    for record in records:
        document = json.loads(record)
        for sample in document.get("samples", ()):
            for counter in ("generation_tokens", "prompt_tokens", "cached_prompt_tokens"):
                key = (sample["instance"], counter)
                pane = sample["at_ms"] // 15_000
                panes[pane] = panes.get(pane, 0.0) + sample[counter] - last.get(key, sample[counter])
                last[key] = sample[counter]
    return load.samples / (time.process_time() - began)


def memory(load: Load) -> tuple[int, int]:
    """Bytes of columns an instance, and peak traced bytes an instance."""
    records = list(payloads(load))
    tracemalloc.start()
    core = PartitionAggregator(0)
    for offset, record in enumerate(records):
        core.handle(offset, record)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return core.bytes_held // load.instances, peak // load.instances


def memory_at_most(load: Load) -> int:
    """Bytes of columns an instance, when each sends more samples at once than one may hold."""
    core = PartitionAggregator(0)
    encode = msgspec.json.Encoder().encode
    for step in range(SAMPLES_PER_INSTANCE_MAX + 100):
        samples = [_sample(load, each, step, ORIGIN_MS + 40 * step) for each in range(load.instances)]
        document = {"kind": "samples", "service": SERVICE, "source": "bench", "samples": samples, "layouts": {"l": EDGES}}
        core.handle(2 * step, encode(document))
        core.handle(2 * step + 1, encode({"kind": "tick", "at_ms": ORIGIN_MS + 40 * step}))
    core.drain()
    return core.bytes_held // load.instances


async def through_faust(kafka: str, load: Load) -> float:
    """Samples/s of CPU time of this process, from Kafka through our Faust worker to windows on signals.v1."""
    prefix = f"bench-{os.getpid()}-{load.batch}-{int(load.histograms)}"
    bus = BusSettings(kafka=kafka, prefix=prefix)
    log = KafkaLog(bus)
    try:
        await catalogue.create(log, prefix, keep_forever=True)
        topic = topic_name(prefix, Topic.TELEMETRY)
        await _fill(log, topic, load)
        context = Context(log=log, prefix=prefix, health=Health(), bus=bus)
        expected = _windows(payloads(load))
        began = time.process_time()
        serving = asyncio.create_task(app.serve(context, SignalsSettings(ticker=Switch.OFF)))
        places = await scan.partitions_of(log, [topic_name(prefix, Topic.SIGNALS)])
        while sum((await log.end_offsets(places)).values()) < expected and not serving.done():
            await asyncio.sleep(0.2)
        spent = time.process_time() - began
        context.stop.set()
        await serving
        return load.samples / spent
    finally:
        await log.delete_topics([name for name in await log.describe_topics() if name.startswith(prefix)])
        await log.close()


def _windows(records: Iterator[bytes]) -> int:
    """How many windows close in the bare core."""
    core = PartitionAggregator(0)
    return sum(len(core.handle(offset, record).windows) for offset, record in enumerate(records))


async def _fill(log: KafkaLog, topic: str, load: Load) -> None:
    entries = [Entry(topic, SERVICE.encode(), record, ORIGIN_MS, 0) for record in payloads(load)]
    for start in range(0, len(entries), 500):
        await log.append(entries[start : start + 500])


async def faust_table(kafka: str, load: Load) -> float:
    """Samples/s of CPU time of a Faust hopping-window table (60 s every 15 s) over the same records."""
    name = f"bench-table-{os.getpid()}"
    log = KafkaLog(BusSettings(kafka=kafka, prefix=name))
    await log.create_topics([TopicLayout(f"{name}.telemetry", 1, {"message.timestamp.before.max.ms": str(2**63 - 1)})])
    await _fill(log, f"{name}.telemetry", load)
    expected = sum(1 for _ in payloads(load))
    with tempfile.TemporaryDirectory() as folder:
        worker = faust.App(
            name,
            broker=f"kafka://{kafka}",
            autodiscover=False,
            datadir=folder,
            web_enabled=False,
            store="memory://",
            topic_disable_leader=True,
            topic_partitions=1,
            value_serializer="raw",
            consumer_auto_offset_reset="earliest",
            worker_redirect_stdouts=False,
        )
        table = worker.Table(f"{name}.tokens", default=float, partitions=1).hopping(60.0, 15.0, expires=3_600.0)
        decode = msgspec.json.Decoder(Samples | Tick).decode
        seen = 0
        last: dict[str, float] = {}

        @worker.agent(worker.topic(f"{name}.telemetry", value_type=bytes, value_serializer="raw"))
        async def tokens(stream: Any) -> None:
            nonlocal seen
            async for value in stream:
                record = decode(value)
                if isinstance(record, Samples):
                    for sample in record.samples:
                        now = float(sample.generation_tokens or 0)
                        table[sample.instance] += now - last.get(sample.instance, now)
                        last[sample.instance] = now
                seen += 1

        began = time.process_time()
        await worker.start()
        while seen < expected:
            await asyncio.sleep(0.05)
        spent = time.process_time() - began
        await worker.stop()
    await log.delete_topics([topic for topic in await log.describe_topics() if topic.startswith(name)])
    await log.close()
    return load.samples / spent


def _machine() -> str:
    model = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), model)
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, msgspec {msgspec.__version__}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, {versions}"


def _row(what: str, detail: str, measure: Callable[[], float]) -> float:
    rate = measure()
    print(f"{what:<34} {detail:<44} {rate:>12,.0f}", flush=True)  # noqa: T201 (a script prints)
    return rate


def main() -> None:
    """Print the table."""
    logs.configure(LogFormat.CONSOLE, LogLevel.ERROR)
    quick = "--quick" in sys.argv
    print(f"machine: {_machine()}")  # noqa: T201
    print(f"{'what':<34} {'load':<44} {'samples/s':>12}")  # noqa: T201
    for histograms in (False, True):
        kind = ", two histograms" if histograms else ""
        for instances, seconds in ((100, 400), (2_000, 160)) if quick else ((100, 370), (2_000, 370), (20_000, 105)):
            for batch in (1, 50, 200):
                load = Load(instances, batch, seconds, histograms)
                _row("core", f"{instances} instances, {batch} a record{kind}", lambda load=load: bare(load))  # type: ignore[misc]
        _row("JSON decode alone", f"2000 instances, 50 a record{kind}", lambda h=histograms: decode_alone(Load(2_000, 50, 60, h)))  # type: ignore[misc]
    for size_s, hop_s in ((60, 60), (60, 15), (120, 15), (300, 15)):
        detail = f"2000 instances, 50 a record, W/H = {size_s // hop_s}"
        _row("core", detail, lambda s=size_s, h=hop_s: bare(Load(2_000, 50, s + 140), (s, h)))  # type: ignore[misc]
    _row("plain dict loop, json", "2000 instances, 50 a record", lambda: dict_loop(Load(2_000, 50, 60)))
    kafka = os.environ.get("HETEROSCALE_KAFKA")
    if kafka:
        ours = _row("Kafka + Faust + core", "2000 instances, 50 a record", lambda: asyncio.run(through_faust(kafka, Load(2_000, 50, 800))))
        _row(
            "Kafka + Faust + core",
            "2000 instances, 50 a record, two histograms",
            lambda: asyncio.run(through_faust(kafka, Load(2_000, 50, 400, True))),
        )
        table = _row("Faust hopping table", "2000 instances, 50 a record", lambda: asyncio.run(faust_table(kafka, Load(2_000, 50, 40))))
        print(f"Kafka + Faust + core is {ours / table:.0f} times the Faust table")  # noqa: T201
    else:
        print("Kafka rows left out: set HETEROSCALE_KAFKA=host:port")  # noqa: T201
    for histograms in (False, True):
        columns, peak = memory(Load(2_000, 50, 120, histograms))
        print(f"memory an instance{', two histograms' if histograms else '':<18} columns {columns:,} bytes, peak {peak:,} bytes")  # noqa: T201
        most = memory_at_most(Load(32, 32, 1, histograms))
        print(f"memory an instance{', two histograms' if histograms else '':<18} {SAMPLES_PER_INSTANCE_MAX} samples held: {most:,} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
