"""Opening the log that the settings name, and waiting for it with one line that says what is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from heteroscale.bus.kafka import KafkaLog
from heteroscale.bus.log import Log
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.pause import stopped_within
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.errors import Retryable

CONDITION: Final = "kafka"
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 5.0


class Waiting(Protocol):
    """Where a wait is reported; runtime.health.Health is one."""

    def waiting(self, condition: str, awaited: str) -> None:
        """`condition` does not hold yet."""
        ...

    def holds(self, condition: str) -> None:
        """`condition` holds."""
        ...


class _Silent:
    def waiting(self, condition: str, awaited: str) -> None:
        """Nobody listens."""

    def holds(self, condition: str) -> None:
        """Nobody listens."""


def build_log(settings: BusSettings) -> Log:
    """The log, not connected yet. Without an address it is the one in memory, which nothing outside this process sees."""
    return MemoryLog(rebalance_deadline_ms=settings.rebalance_deadline_ms) if settings.kafka is None else KafkaLog(settings)


async def open_log(
    settings: BusSettings,
    *,
    health: Waiting | None = None,
    stop: asyncio.Event | None = None,
    announce: Callable[[str], None] | None = None,
) -> Log:
    """The log, once it answers. Tries again with growing pauses; `announce` hears what is awaited, once.

    Raises Retryable when `stop` is set first (or at once, without `stop`, when the log does not answer the first time), Broken
    when waiting cannot help (authentication).
    """
    log = build_log(settings)
    try:
        await wait_for(log, settings, health=health, stop=stop, announce=announce)
    except BaseException:
        await log.close()
        raise
    return log


async def wait_for(
    log: Log,
    settings: BusSettings,
    *,
    health: Waiting | None = None,
    stop: asyncio.Event | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Until `log` answers; as `open_log`."""
    report = health if health is not None else _Silent()
    pause_s = BACKOFF_FIRST_S
    told = False
    while True:
        try:
            await log.describe_topics([])
        except Retryable as error:
            if stop is None:
                raise
            report.waiting(CONDITION, f"Kafka at {settings.kafka} ({error})")
            if announce is not None and not told:
                told = True
                announce(f"waiting for Kafka at {settings.kafka}: {error}")
            if await stopped_within(stop, pause_s):
                raise
            pause_s = min(BACKOFF_MAX_S, pause_s * 2)
        else:
            report.holds(CONDITION)
            return
