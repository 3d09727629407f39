"""How fast the law steps, and how soon after a window closes its command is on the log. Prints its own machine.

python tests/benchmarks/decision.py [--services 2000] [--kafka 127.0.0.1:9092]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from heteroscale.bus import catalogue
from heteroscale.bus.log import Entry, Log, TopicPartition
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.decision import app, controller
from heteroscale.decision.controller import ServiceState
from heteroscale.decision.settings import DecisionSettings
from heteroscale.runtime import logs
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.settings import LogFormat, LogLevel
from support import brokers, lawbook

GUARDS = [{"latency": "tbt", "quantile": "p95", "moderate": "60ms", "severe": "80ms"}]


def windows(service: str, hops: int) -> list[SignalWindow]:
    """A load that swings, so that the service moves now and then."""
    made = []
    for at in range(hops):
        load = 20 + 12 * float(np.sin(at / 20 + len(service)))
        window = lawbook.window(at, decode=20, load=load, tbt_ms=lawbook.latency(40.0))
        made.append(codec.convert(SignalWindow, codec.to_document(window) | {"service": service}))
    return made


def step(services: int, hops: int) -> None:
    """The pure step with its record encoded, as the service does it."""
    specs = [lawbook.spec(service=f"s{i:04d}", guards=GUARDS, placement="none") for i in range(services)]
    states = {spec.service: ServiceState(spec.service, spec) for spec in specs}
    events = {spec.service: windows(spec.service, hops) for spec in specs}
    taken, size = [], 0
    for at in range(hops):
        for service in sorted(states):
            began = time.perf_counter()
            states[service], effects = controller.step(states[service], events[service][at])
            assert effects.state is not None
            size = len(codec.encode(effects.state))
            taken.append(time.perf_counter() - began)
    spent = np.array(taken)
    p50, p99 = np.percentile(spent, [50, 99]) * 1e6
    click.echo(f"step: {len(taken) / spent.sum():,.0f} windows/s on one core, p50 {p50:.0f} us, p99 {p99:.0f} us, state {size} bytes")
    click.echo(f"      2,000 services every 15 s need {2000 / 15 * spent.mean():.1%} of a core")


async def loop(kafka: str | None, services: int, hops: int) -> None:
    """Window appended → command readable, for services that all move in the same hop."""
    prefix = brokers.unique_prefix()
    log = brokers.build_log(kafka, prefix)
    context = Context(log=log, prefix=prefix, health=Health())
    try:
        await catalogue.create(log, prefix, keep_forever=True)
        specs = [lawbook.spec(service=f"s{i:04d}", placement="none") for i in range(services)]
        await log.append([Entry(topic_name(prefix, Topic.SPECS), s.service.encode(), codec.encode(s), s.applied_at_ms or 0) for s in specs])
        task = asyncio.create_task(app.serve(context, DecisionSettings(poll_ms=50)))
        while not context.health.ready:
            await asyncio.sleep(0.05)
        delays = await _measure(log, prefix, [spec.service for spec in specs], hops)
        context.stop.set()
        await task
    finally:
        names = [name for name in await log.describe_topics() if name.startswith(f"{prefix}.")]
        await log.delete_topics(names)
        await log.close()
    p50, p99 = np.percentile(np.array(delays), [50, 99]) * 1e3
    where = "memory" if kafka is None else "Kafka"
    click.echo(
        f"window close to command on {where}, {services} services at once: p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(delays)} commands)"
    )


async def _measure(log: Log, prefix: str, services: list[str], hops: int) -> list[float]:
    places = [TopicPartition(topic_name(prefix, Topic.COMMANDS), p) for p in range(CATALOGUE[Topic.COMMANDS].partitions)]
    reader = log.reader(dict.fromkeys(places, 0))
    delays: list[float] = []
    for at in range(hops):
        entries = []
        for service in services:
            window = lawbook.window(at, decode=8, load=float(8 + 2 * max(0, at - 4)))
            payload = codec.encode(codec.convert(SignalWindow, codec.to_document(window) | {"service": service}))
            entries.append(Entry(topic_name(prefix, Topic.SIGNALS), service.encode(), payload, window.end_ms))
        began = time.perf_counter()
        await log.append(entries)
        seen: set[str] = set()
        while len(seen) < len(services) and time.perf_counter() - began < 2:
            for record in await reader.poll(timeout_ms=20):
                command = codec.decode(Command, record.value or b"")
                if command.at_ms == lawbook.START_MS + at * lawbook.HOP_MS and command.service not in seen:
                    seen.add(command.service)
                    delays.append(time.perf_counter() - began)
            if at < 5:
                break  # no command is due before the first move
        await asyncio.sleep(0.2)
    await reader.close()
    return delays


def main() -> None:
    """Both measurements."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--services", type=int, default=2_000)
    arguments.add_argument("--kafka", default=os.environ.get("HETEROSCALE_KAFKA"), help="HOST:PORT; without it the log in memory")
    given = arguments.parse_args()
    logs.configure(LogFormat.JSON, LogLevel.ERROR)
    click.echo(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    step(given.services, 20)
    asyncio.run(loop(given.kafka, min(given.services, 200), 12))


if __name__ == "__main__":
    main()
