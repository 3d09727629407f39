"""The life of a process: wait for the log, run services under supervision, drain on SIGTERM, say why it ended.

A service is `async def serve(context) -> None`. It runs until `context.stop` is set. If it raises Retryable (something it needs is
away) it is started again with growing pauses, and the process is not ready meanwhile; state comes from the log, so a new start loses
nothing. Anything else that ends it ends the process, with a message and a non-zero exit code.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from typing import Final

from heteroscale.bus import catalogue, connect
from heteroscale.bus.log import Log
from heteroscale.bus.pause import stopped_within
from heteroscale.contracts.errors import Broken, HeteroscaleError, Rejected, Retryable
from heteroscale.runtime import logs, metrics
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.http import HttpServer
from heteroscale.runtime.metering import MeteredLog
from heteroscale.runtime.metrics import Metrics
from heteroscale.runtime.settings import BusSettings, ProcessSettings

Service = Callable[[Context], Awaitable[None]]

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_BAD_INPUT: Final = 2
PROBE_EVERY_S: Final = 2.0
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 5.0
STEADY_S: Final = 30.0  # a service that ran so long starts again with the first pause


class Ended(Broken):
    """A service returned though nobody had asked it to."""


def run_process(name: str, services: Mapping[str, Service], *, process: ProcessSettings, bus: BusSettings, log: Log | None = None) -> int:
    """Run services in this process until a signal or a failure; the exit code. Sets up logging; owns the event loop."""
    logs.configure(process.log_format, process.log_level, process=name)
    return asyncio.run(live(name, services, process=process, bus=bus, log=log))


async def live(name: str, services: Mapping[str, Service], *, process: ProcessSettings, bus: BusSettings, log: Log | None = None) -> int:
    """As `run_process`, inside a running loop. A `log` that is given is used as it is (and not closed)."""
    context = Context(
        log=MeteredLog(log or connect.build_log(bus), registry := Metrics()), prefix=bus.prefix, health=Health(), metrics=registry, bus=bus
    )
    logger = logs.logger()
    http = HttpServer(context.health, registry, context.documents)
    registry.set(metrics.BUILD_INFO, 1, version=metadata.version("heteroscale"), process=name)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, context.stop.set)
    try:
        if process.http_port is not None:
            port = await http.start(process.http_host, process.http_port)
            logger.info("http_listening", host=process.http_host, port=port)
        await _wait_for_topics(context, bus)
        logger.info("started", services=sorted(services), prefix=bus.prefix, log="memory" if bus.kafka is None else bus.kafka)
        return await supervise(context, services, bus=bus, drain_deadline_ms=process.drain_deadline_ms)
    except Retryable:
        return EXIT_DONE  # asked to stop while it was still waiting
    except Rejected as error:
        logger.critical("bad_input", error=str(error))
        return EXIT_BAD_INPUT
    except HeteroscaleError as error:
        logger.critical("broken", error=str(error))
        return EXIT_FAILED
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await http.close()
        if log is None:
            await context.log.close()


async def _wait_for_topics(context: Context, bus: BusSettings) -> None:
    """Until the log answers and holds every topic of the catalogue, with the right number of partitions.

    Raises Retryable when asked to stop meanwhile, Rejected for a topic laid out otherwise.
    """
    while True:
        await connect.wait_for(context.log, bus, health=context.health, stop=context.stop, announce=logs.logger().warning)
        try:
            created = await catalogue.create(context.log, bus.prefix)
        except Retryable:
            if await stopped_within(context.stop, BACKOFF_FIRST_S):
                raise
            continue
        if created:
            logs.logger().info("topics_created", topics=created)
        return


async def supervise(context: Context, services: Mapping[str, Service], *, bus: BusSettings, drain_deadline_ms: int) -> int:
    """Run services until `context.stop` or until one fails, then drain all; the exit code."""
    logger = logs.logger()
    tasks = {asyncio.create_task(_keep(context, name, service), name=name): name for name, service in sorted(services.items())}
    watch = asyncio.create_task(_watch(context, bus), name="watch")
    stopping = asyncio.create_task(context.stop.wait(), name="stop")
    code = EXIT_DONE
    try:
        await asyncio.wait({*tasks, watch, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not context.stop.is_set():
            code = EXIT_FAILED
        context.stop.set()
        _, late = await asyncio.wait(tasks, timeout=drain_deadline_ms / 1_000)
        for task in late:
            code = EXIT_FAILED
            logger.critical("drain_deadline_passed", service=tasks[task], deadline_ms=drain_deadline_ms)
    finally:
        for running in (*tasks, watch, stopping):
            running.cancel()
        outcomes = await asyncio.gather(*tasks, watch, stopping, return_exceptions=True)
    for name, outcome in zip((*tasks.values(), "watch"), outcomes, strict=False):
        if isinstance(outcome, Exception):
            code = EXIT_BAD_INPUT if isinstance(outcome, Rejected) else EXIT_FAILED
            known = isinstance(outcome, HeteroscaleError)
            logger.critical(
                "service_failed", service=name, error=str(outcome) or type(outcome).__name__, exc_info=None if known else outcome
            )
    logger.info("stopped", exit_code=code)
    return code


async def _keep(context: Context, name: str, service: Service) -> None:
    """Run a service, again and again while what it needs comes and goes. Raises what ends it."""
    loop = asyncio.get_running_loop()
    pause_s = BACKOFF_FIRST_S
    while True:
        began_s = loop.time()
        try:
            await service(context)
        except Retryable as error:
            if context.stop.is_set():
                return
            if loop.time() - began_s >= STEADY_S:
                pause_s = BACKOFF_FIRST_S
            context.health.waiting(name, str(error))
            logs.logger().warning("service_waiting", service=name, awaited=str(error), pause_s=pause_s)
            context.metrics.add(metrics.RESTARTS, 1, service=name)
            if await stopped_within(context.stop, pause_s):
                return
            pause_s = min(BACKOFF_MAX_S, pause_s * 2)
            context.health.holds(name)
        else:
            if not context.stop.is_set():
                raise Ended(f"{name} ended though nobody asked it to")
            return


async def _watch(context: Context, bus: BusSettings) -> None:
    """Readiness follows whether the log answers."""
    away = False
    while not await stopped_within(context.stop, PROBE_EVERY_S):
        try:
            await context.log.describe_topics([])
        except Retryable as error:
            context.health.waiting(connect.CONDITION, f"Kafka at {bus.kafka} ({error})")
            if not away:
                logs.logger().warning("log_away", awaited=f"Kafka at {bus.kafka}", error=str(error))
            away = True
        else:
            context.health.holds(connect.CONDITION)
            if away:
                logs.logger().info("log_back")
            away = False
        context.metrics.set(metrics.READY, 1 if context.health.ready else 0)
