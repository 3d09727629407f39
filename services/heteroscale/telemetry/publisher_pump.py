"""From a buffer to telemetry.v1: one batch after another, again and again while the log is away, never faster than it can be.

Every failure of the log is waited out, also those that a service would end for: an engine must not stop serving because its
telemetry has nowhere to go.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from heteroscale.bus.log import Entry, Log
from heteroscale.bus.pause import stopped_within
from heteroscale.contracts.telemetry import InstanceSample
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime.clock import SYSTEM
from heteroscale.telemetry import publisher_buffer
from heteroscale.telemetry.publisher_buffer import NO_LAYOUTS, Batch, Buffer, Layouts

BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 5.0
LAYOUT_SETS_MAX: Final = 1_024  # remembered encodings of bucket edges; engines of a process have a handful
_LOGGER: Final = logging.getLogger("heteroscale.telemetry")


class PublisherLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a publisher may use. The defaults hold about 20,000 samples without histograms."""

    buffer_bytes_max: int = 8 * 1024 * 1024
    batch_samples_max: int = 500
    batch_bytes_max: int = 512 * 1024
    linger_ms: int = 100  # how long a sample waits for company: a tenth of the usual interval


class PublisherStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start. published = sent + dropped + refused + buffered + under way."""

    published: int
    sent: int
    dropped: int
    refused: int
    buffered: int
    failures: int
    last_error: str | None


class Outbox:
    """The buffer behind its lock, with counts. `put` is what runs inside the engine: no waiting, no error gets out."""

    def __init__(self, source: str, limits: PublisherLimits) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._limits = limits
        self._layouts: dict[int, tuple[Layouts, bytes]] = {}
        self._buffer = self._new_buffer()
        self._published = self._sent = self._dropped = self._refused = self._failures = 0
        self._last_error: str | None = None

    def put(self, service: str, sample: InstanceSample, layouts: Layouts = NO_LAYOUTS) -> bool:
        """Encode and keep a sample; false if it could not be encoded. Never waits for the log, never raises."""
        try:
            held = publisher_buffer.hold(service, sample, self._encoded(layouts))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a sample stays out of the engine's way
            with self._lock:
                self._published += 1
                self._refused += 1
                self._last_error = f"{type(error).__name__}: {error}"
            return False
        with self._lock:
            self._published += 1
            self._dropped += self._buffer.put(held)
        return True

    def take(self) -> Batch | None:
        """The next batch, if there is one."""
        with self._lock:
            return self._buffer.take()

    def sent(self, count: int) -> None:
        """So many samples are durable."""
        with self._lock:
            self._sent += count

    def lost(self, count: int) -> None:
        """So many samples were under way when time was up."""
        with self._lock:
            self._dropped += count

    def failed(self, error: BaseException) -> None:
        """The log did not take a batch."""
        with self._lock:
            self._failures += 1
            self._last_error = f"{type(error).__name__}: {error}"

    def discard(self) -> None:
        """Count what is still held as dropped."""
        with self._lock:
            self._dropped += len(self._buffer)
            self._buffer = self._new_buffer()

    def stats(self) -> PublisherStats:
        """Counts so far."""
        with self._lock:
            return PublisherStats(
                published=self._published,
                sent=self._sent,
                dropped=self._dropped,
                refused=self._refused,
                buffered=len(self._buffer),
                failures=self._failures,
                last_error=self._last_error,
            )

    def _encoded(self, layouts: Layouts) -> bytes:
        """The encoding of a layout mapping, remembered by identity: engines hand in the same mapping each time."""
        known = self._layouts.get(id(layouts))
        if known is None or known[0] is not layouts:
            if len(self._layouts) >= LAYOUT_SETS_MAX:
                self._layouts.clear()
            known = self._layouts[id(layouts)] = (layouts, publisher_buffer.encode_layouts(layouts))
        return known[1]

    def _new_buffer(self) -> Buffer:
        limits = self._limits
        return Buffer(
            self.source,
            bytes_max=limits.buffer_bytes_max,
            batch_samples_max=limits.batch_samples_max,
            batch_bytes_max=limits.batch_bytes_max,
        )


class Pump:
    """Moves an outbox to a log until it is told to stop, then empties it within a limit."""

    def __init__(self, outbox: Outbox, log: Log, prefix: str, linger_ms: int) -> None:
        self._outbox = outbox
        self._log = log
        self._topic = topic_name(prefix, Topic.TELEMETRY)
        self._linger_s = linger_ms / 1_000
        self._away = False
        self._under_way: Batch | None = None

    async def run(self, stop: asyncio.Event, drain_limit_s: Callable[[], float]) -> None:
        """Until `stop`; then at most so many seconds more. Raises nothing but cancellation."""
        work = asyncio.create_task(self._work(stop), name="heteroscale-publisher-work")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({work}, timeout=drain_limit_s())
        finally:
            for task in (work, stopping):
                task.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)
            if self._under_way is not None:
                self._outbox.lost(self._under_way.samples)
            self._outbox.discard()

    async def _work(self, stop: asyncio.Event) -> None:
        """Send what there is, again and again; once more after `stop`."""
        last = False
        while not last:
            last = await stopped_within(stop, self._linger_s)
            while (batch := self._outbox.take()) is not None:
                self._under_way = batch
                await self._deliver(batch, stop)
                self._under_way = None
                self._outbox.sent(batch.samples)

    async def _deliver(self, batch: Batch, stop: asyncio.Event) -> None:
        """Append a batch, as often as it takes."""
        entry = Entry(self._topic, batch.service.encode(), batch.value, batch.at_ms)
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                await self._log.append([entry])
            except Exception as error:  # noqa: BLE001 - the engine goes on whatever the log says, and so does this
                self._outbox.failed(error)
                self._tell(error)
            else:
                self._tell(None)
                return
            if stop.is_set():
                await asyncio.sleep(BACKOFF_FIRST_S)
            else:
                await stopped_within(stop, pause_s)
            pause_s = min(BACKOFF_MAX_S, pause_s * 2)

    def _tell(self, error: Exception | None) -> None:
        """One line when the log goes away, one when it is back."""
        if error is not None and not self._away:
            _LOGGER.warning("telemetry waits for the log: %s", error)
        if error is None and self._away:
            _LOGGER.warning("telemetry is being delivered again")
        self._away = error is not None


class DrainLimit:
    """Seconds left of a deadline that is set once."""

    def __init__(self, default_s: float) -> None:
        self._limit_s = default_s
        self._until_s: float | None = None

    def start(self, limit_s: float) -> None:
        """The clock runs from now."""
        self._until_s = SYSTEM.monotonic_s() + limit_s

    def __call__(self) -> float:
        """Seconds left."""
        return self._limit_s if self._until_s is None else max(0.0, self._until_s - SYSTEM.monotonic_s())
