"""What a sample costs the engine that publishes it: µs and allocations of one `publish`, with the log there and away.

python tests/benchmarks/publisher.py [--samples 50000]
"""
# ruff: noqa: T201 (a benchmark prints)

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Sequence

from heteroscale.bus.log import Entry
from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts.errors import Retryable
from heteroscale.contracts.telemetry import EngineState, Histogram, InstanceSample
from heteroscale.telemetry.publisher import Publisher, PublisherSettings

EDGES = tuple(round(0.005 * 1.35**n, 6) for n in range(20))
BATCH = 1_000


class Sink(MemoryLog):
    """Takes everything, or nothing."""

    def __init__(self, *, away: bool) -> None:
        super().__init__()
        self._away = away

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """At once."""
        await asyncio.sleep(0)
        if self._away:
            raise Retryable("away")
        return [0] * len(entries)


def sample(n: int, *, histograms: bool) -> InstanceSample:
    """A sample as an exporter of vLLM makes it."""
    histogram = Histogram(layout="tbt", counts=[n + edge for edge in range(21)], sum_s=n * 0.02) if histograms else None
    return InstanceSample(
        instance="chat-70b-decode-0",
        role="decode",
        state=EngineState.SERVING,
        at_ms=1_700_000_000_000 + n,
        node="n17",
        gpu_type="H20",
        gpus=8,
        started_at_ms=1_690_000_000_000,
        generation_tokens=n * 4_200,
        prompt_tokens=n * 1_500,
        cached_prompt_tokens=n * 700,
        requests_finished=n,
        running=17,
        waiting=2,
        kv_usage=0.4375,
        gpu_util=0.93,
        ttft=histogram,
        tbt=histogram,
    )


def allocations(publisher: Publisher, one: InstanceSample) -> tuple[int, int, int]:
    """Of one `publish`: bytes that stay until it is sent, bytes at the worst moment, blocks that stay. Medians of several."""
    found = []
    gc.disable()
    tracemalloc.start()
    for _ in range(15):
        blocks, (before, _) = sys.getallocatedblocks(), tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        publisher.publish(one)
        after, peak = tracemalloc.get_traced_memory()
        found.append((max(0, after - before), peak - before, max(0, sys.getallocatedblocks() - blocks)))
        time.sleep(0.002)
    tracemalloc.stop()
    gc.enable()
    kept, worst, left = (sorted(column)[len(column) // 2] for column in zip(*found, strict=True))
    return kept, worst, left


def measure(count: int, *, histograms: bool, away: bool) -> str:
    """One line: median and p99 of batches, what is allocated."""
    samples = [sample(n, histograms=histograms) for n in range(BATCH)]
    layouts = {"tbt": EDGES} if histograms else {}
    publisher = Publisher("chat-70b", PublisherSettings(), layouts=layouts, log=lambda: Sink(away=away))
    publisher.publish(samples[0])
    costs = []
    gc.collect()
    for _ in range(max(1, count // BATCH)):
        began = time.perf_counter()
        for one in samples:
            publisher.publish(one)
        costs.append((time.perf_counter() - began) / BATCH * 1e6)
        time.sleep(0.002)
    kept, peak, blocks = allocations(publisher, samples[0])
    stats = publisher.close(0.2)
    what = ("two histograms of 21 buckets" if histograms else "no histograms") + (", log away" if away else "")
    costs.sort()
    dropped = f", {stats.dropped / stats.published:.0%} dropped" if stats.dropped else ""
    tail = costs[int(len(costs) * 0.99)]
    memory = f"{kept} bytes kept in {blocks} blocks, {peak} at most"
    return f"{what:42} {statistics.median(costs):6.2f} µs a sample (p99 of batches {tail:.2f}), {memory}{dropped}"


def main() -> None:
    """Print the machine and four lines."""
    options = argparse.ArgumentParser()
    options.add_argument("--samples", type=int, default=50_000)
    given, _ = options.parse_known_args()
    print(f"publisher: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {given.samples} samples a line")
    for away in (False, True):
        for histograms in (False, True):
            print("  " + measure(given.samples, histograms=histograms, away=away))


if __name__ == "__main__":
    main()
