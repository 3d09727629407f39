"""Gangs a second on a Redis with appendfsync always. Prints its own machine.

python tests/benchmarks/inventory.py [REDIS_URL]

Each gang reserves one prefill and two decode instances (three nodes) or gives them back. "in flight" is how many gangs of one cycle
travel together, which is how the service sends them. Without an address a redis-server of its own is started.
"""

# ruff: noqa: T201 - a benchmark prints
from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from heteroscale.placement import check
from heteroscale.placement.inventory.entries import InstanceEntry
from heteroscale.placement.inventory.gang import Gang, Verdict
from heteroscale.placement.inventory.redis import RedisInventory, connect
from support.gangs import Proposer, built, node
from support.own_redis import OwnRedis

SERVICES = 64
NODES_EACH = 3
SECONDS = 3.0


class Service:
    """Reserves and releases in turn."""

    def __init__(self, number: int, fence: int) -> None:
        self.proposer = Proposer("bench", fence, service=f"s{number}")
        self.nodes = [f"n{number}-{at}" for at in range(NODES_EACH)]
        self.held: list[tuple[str, InstanceEntry]] = []

    def next(self) -> Gang:
        """The next gang, assuming the last was applied."""
        if self.held:
            gang = self.proposer.gang(drops=self.held)
            self.held = []
        else:
            gang = self.proposer.gang(
                {f"{self.proposer.service}-{self.proposer.seq}-{at}": {name: 8} for at, name in enumerate(self.nodes)}
            )
            self.held = sorted(gang.puts.items())
        self.proposer.seq += 1
        return gang


async def measured(inventory: RedisInventory, services: list[Service], in_flight: int, seconds: float) -> tuple[float, float, float]:
    """Gangs a second, and the median and 99th percentile of a batch in ms."""
    waits: list[float] = []
    done, turn = 0, 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        batch = [services[(turn + at) % len(services)].next() for at in range(in_flight)]
        turn += in_flight
        sent = time.perf_counter()
        outcomes = await inventory.apply(batch)
        waits.append((time.perf_counter() - sent) * 1_000)
        assert all(outcome.verdict is Verdict.APPLIED for outcome in outcomes)
        await inventory.acknowledge("bench", [outcome.entry for outcome in outcomes])
        done += in_flight
    rate = done / (time.perf_counter() - began)
    return rate, statistics.median(waits), sorted(waits)[int(len(waits) * 0.99)]


async def main(url: str, seconds: float) -> None:
    """Print one line for each number in flight."""
    client = connect(url, timeout_ms=5_000)
    inventory = RedisInventory(client, prefix=f"bench-{os.getpid()}", timeout_ms=5_000)
    try:
        for warning in await inventory.warnings():
            print(f"note: {warning}")
        nodes = [node(f"n{number}-{at}", fleet="bench") for number in range(SERVICES) for at in range(NODES_EACH)]
        fence = await built(inventory, *nodes, fleet="bench")
        services = [Service(number, fence) for number in range(SERVICES)]
        print(f"{'in flight':>9}  {'gangs/s':>8}  {'p50 ms':>7}  {'p99 ms':>7}")
        for in_flight in (1, 4, 16, 64):
            rate, middle, worst = await measured(inventory, services, in_flight, seconds)
            print(f"{in_flight:>9}  {rate:>8.0f}  {middle:>7.2f}  {worst:>7.2f}")
        image = await inventory.read("bench")
        assert image is not None
        wrong = [one for one in check.inventory(image) if one.invariant != "ONCE"]  # these gangs command nothing
        print("books:", wrong or "right")
    finally:
        await client.delete(*inventory.keys("bench"))
        await inventory.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default=None)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.platform()}")
    with contextlib.ExitStack() as stack:
        own = None
        if given.url is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            own = stack.enter_context(OwnRedis(Path(folder)))
        asyncio.run(main(own.url if own is not None else given.url, given.seconds))
