"""The life of a process: supervision, restarts, draining, exit codes."""

from __future__ import annotations

import asyncio
import socket

import pytest
import structlog

from heteroscale.bus import catalogue, connect
from heteroscale.bus.log import Log, TopicLayout
from heteroscale.contracts.errors import Broken, Rejected, Retryable
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import lifecycle, metrics
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.settings import BusSettings, ProcessSettings
from support import brokers

BUS = BusSettings()
QUIET = ProcessSettings(http_port=None)


def context_of(log: Log) -> Context:
    """A context on a log."""
    return Context(log=log, prefix="memory", health=Health())


async def idle(context: Context) -> None:
    """A service that does nothing until it is stopped."""
    await context.stop.wait()


async def test_it_runs_until_it_is_stopped(memory_log: Log) -> None:
    """All services drain, and the exit code is 0."""
    context = context_of(memory_log)
    drained: list[str] = []

    async def serve(context: Context) -> None:
        await context.stop.wait()
        await asyncio.sleep(0.01)
        drained.append("done")

    asyncio.get_running_loop().call_later(0.05, context.stop.set)
    assert lifecycle.EXIT_DONE == await lifecycle.supervise(context, {"a": serve, "b": idle}, bus=BUS, drain_deadline_ms=5_000)
    assert ["done"] == drained


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("surprise"), lifecycle.EXIT_FAILED),
        (Broken("an invariant"), lifecycle.EXIT_FAILED),
        (Rejected("settings", "write another"), lifecycle.EXIT_BAD_INPUT),
        (None, lifecycle.EXIT_FAILED),
    ],
)
async def test_a_dead_service_ends_the_process(memory_log: Log, error: Exception | None, code: int) -> None:
    """Whatever ends a service, also a plain return, stops the others and is said with its name."""
    context = context_of(memory_log)

    async def dies(_context: Context) -> None:
        await asyncio.sleep(0.01)
        if error is not None:
            raise error

    with structlog.testing.capture_logs() as said:
        assert code == await lifecycle.supervise(context, {"dies": dies, "idle": idle}, bus=BUS, drain_deadline_ms=5_000)
    assert context.stop.is_set()
    assert ["dies"] == [line["service"] for line in said if line["log_level"] == "critical"]


async def test_a_service_that_needs_something_away_is_started_again(memory_log: Log) -> None:
    """Retryable makes the process unready, and the service starts anew until what it needs is back."""
    context = context_of(memory_log)
    unready: list[dict[str, str]] = []
    starts = 0

    async def serve(context: Context) -> None:
        nonlocal starts
        starts += 1
        if starts == 2:
            unready.append(context.health.report())
        if starts < 3:
            raise Retryable("Redis at r:6379")
        context.stop.set()

    watcher = asyncio.create_task(_first_report(context))
    assert lifecycle.EXIT_DONE == await lifecycle.supervise(context, {"placement": serve}, bus=BUS, drain_deadline_ms=5_000)
    assert {"placement": "Redis at r:6379"} == await watcher
    assert 3 == starts
    assert 2 == context.metrics.value(metrics.RESTARTS, service="placement")
    assert context.health.ready


async def _first_report(context: Context) -> dict[str, str]:
    async with asyncio.timeout(10):
        while context.health.ready:
            await asyncio.sleep(0.005)
    return context.health.report()


async def test_a_service_that_does_not_drain_is_cut_off(memory_log: Log) -> None:
    """Past the deadline the process ends all the same, and not with 0."""
    context = context_of(memory_log)

    async def stuck(_context: Context) -> None:
        await asyncio.Event().wait()

    context.stop.set()
    assert lifecycle.EXIT_FAILED == await lifecycle.supervise(context, {"stuck": stuck}, bus=BUS, drain_deadline_ms=50)


async def test_topics_are_there_before_services_start(memory_log: Log) -> None:
    """A process makes the catalogue's topics where they are missing, then runs its services on them."""
    seen: list[int] = []

    async def serve(context: Context) -> None:
        seen.append(len(await context.log.describe_topics()))
        context.stop.set()

    assert lifecycle.EXIT_DONE == await lifecycle.live("test", {"only": serve}, process=QUIET, bus=BUS, log=memory_log)
    await catalogue.check(memory_log, BUS.prefix)
    assert [len(Topic)] == seen


async def test_a_topic_laid_out_otherwise_is_bad_input(memory_log: Log) -> None:
    """A wrong partition count ends the process with 2 before any service starts."""
    await memory_log.create_topics([TopicLayout(topic_name(BUS.prefix, Topic.SIGNALS), 3, {})])
    assert lifecycle.EXIT_BAD_INPUT == await lifecycle.live("test", {"only": idle}, process=QUIET, bus=BUS, log=memory_log)


async def test_a_broker_that_is_away_is_awaited() -> None:
    """The process waits, unready, says what for once, and can be stopped while it waits."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
        log = brokers.build_log(nobody, "away")
        bus = brokers.settings(nobody, "away")
        context = context_of(log)
        said: list[str] = []
        waiting = asyncio.create_task(connect.wait_for(log, bus, health=context.health, stop=context.stop, announce=said.append))
        await _first_report(context)
        assert "kafka" in context.health.report()
        await asyncio.sleep(0.6)
        context.stop.set()
        with pytest.raises(Retryable):
            await asyncio.wait_for(waiting, 15)
        assert [True] == [nobody in line for line in said]
        await log.close()
