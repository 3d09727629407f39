"""Time as a record: one `tick` a second to each telemetry.v1 partition that this worker holds. The control path's only clock.

A tick's instant is a whole second of the clock and never goes back. Ticks that could not be written in time are not made up for: the
next one says all that they would have said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from heteroscale.bus.log import Entry, Log
from heteroscale.bus.pause import stopped_within
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Retryable, Stale
from heteroscale.contracts.telemetry import Tick
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import logs, metrics
from heteroscale.runtime.clock import SYSTEM, Clock
from heteroscale.runtime.metrics import Metrics

PERIOD_MS: Final = 1_000


def due_after(now_ms: int) -> int:
    """The first whole second after `now_ms`."""
    return (now_ms // PERIOD_MS + 1) * PERIOD_MS


class Ticker:
    """Ticks into the partitions it was last told of; none at first."""

    def __init__(self, log: Log, prefix: str, *, clock: Clock = SYSTEM, registry: Metrics | None = None) -> None:
        self._log = log
        self._topic = topic_name(prefix, Topic.TELEMETRY)
        self._clock = clock
        self._registry = registry
        self._partitions: tuple[int, ...] = ()
        self._last_ms = 0
        self._logger = logs.logger(topic=self._topic)

    def hold(self, partitions: Iterable[int]) -> None:
        """Tick into these partitions from now on (all of them, not in addition)."""
        self._partitions = tuple(sorted(set(partitions)))

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. While the log is away ticks are left out, with one warning."""
        away = False
        while not stop.is_set():
            due_ms = due_after(self._clock.now_ms())
            if await stopped_within(stop, (due_ms - self._clock.now_ms()) / 1_000):
                return
            try:
                await self.tick(due_ms)
            except (Retryable, Stale) as error:
                if not away:
                    self._logger.warning("ticks_left_out", error=str(error))
                away = True
            else:
                away = False

    async def tick(self, at_ms: int) -> None:
        """One tick to each partition held, unless time went back. Raises Retryable."""
        if at_ms <= self._last_ms or not self._partitions:
            return
        value = codec.encode(Tick(at_ms=at_ms))
        await self._log.append([Entry(self._topic, None, value, at_ms, partition) for partition in self._partitions])
        self._last_ms = at_ms
        if self._registry is not None:
            self._registry.add(metrics.TICKS, len(self._partitions))
            self._registry.observe(metrics.TICK_LATENESS, max(0, self._clock.now_ms() - at_ms) / 1_000)
