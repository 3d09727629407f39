"""The publisher SDK: a few lines in an engine, or in an agent beside it, and its samples are on telemetry.v1.

    publisher = Publisher("chat-70b", PublisherSettings(kafka="kafka:9092"))
    ...
    publisher.publish(InstanceSample(instance="p-1", role="prefill", state=EngineState.SERVING, at_ms=now_ms(), generation_tokens=n))
    ...
    publisher.close()

`publish` encodes the sample and puts it in a buffer: microseconds, no waiting, no exception, whatever the log does. A thread of its own
(or a task, in `AsyncPublisher`) delivers. While the log is away the buffer fills to its bound and then drops the oldest samples;
counters are cumulative, so the next sample that arrives says all that was in the lost ones. `stats` counts them.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from heteroscale.bus import connect
from heteroscale.bus.log import Log
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.telemetry import InstanceSample
from heteroscale.telemetry.publisher_buffer import NO_LAYOUTS, Layouts
from heteroscale.telemetry.publisher_pump import DrainLimit, Outbox, PublisherLimits, PublisherStats, Pump

__all__ = ["AsyncPublisher", "Layouts", "Publisher", "PublisherLimits", "PublisherSettings", "PublisherStats"]

PublisherSettings = BusSettings  # where the log is: address, prefix, security
CLOSE_LIMIT_S: Final = 5.0
EXIT_LIMIT_S: Final = 1.0  # of an engine that ends without closing its publisher
LET_GO_LIMIT_S: Final = 0.5  # for connections, whatever is left of the limit
_EPILOGUE_S: Final = 3.0  # connections are let go of after the samples are gone


class _Front:
    """What both publishers share: the outbox, and where it goes."""

    def __init__(
        self,
        service: str,
        settings: BusSettings,
        *,
        source: str = "",
        layouts: Layouts = NO_LAYOUTS,
        limits: PublisherLimits | None = None,
        log: Callable[[], Log] | None = None,
    ) -> None:
        """Samples are of `service` unless `publish` says otherwise; `source` names this process; `layouts` are bucket edges in seconds."""
        self._service = service
        self._settings = settings
        self._layouts = layouts
        self._limits = PublisherLimits() if limits is None else limits
        self._outbox = Outbox(source, self._limits)
        self._log = log
        self._drain_limit = DrainLimit(EXIT_LIMIT_S)
        self._closed = False

    @property
    def stats(self) -> PublisherStats:
        """Counts so far."""
        return self._outbox.stats()

    def _keep(self, sample: InstanceSample, layouts: Layouts | None, service: str | None) -> bool:
        """Put a sample in the outbox; false if it was refused."""
        return not self._closed and self._outbox.put(service or self._service, sample, self._layouts if layouts is None else layouts)

    async def _deliver(self, stop: asyncio.Event) -> None:
        """Until `stop`, then as long as the limit allows; always lets go of the log."""
        quiet = logging.getLogger("aiokafka")
        if quiet.level == logging.NOTSET:  # an engine's log is not the place for a client's every attempt
            quiet.setLevel(logging.CRITICAL)
        log = connect.build_log(self._settings) if self._log is None else self._log()
        try:
            await Pump(self._outbox, log, self._settings.prefix, self._limits.linger_ms).run(stop, self._drain_limit)
        finally:
            with contextlib.suppress(Exception, TimeoutError):
                async with asyncio.timeout(max(LET_GO_LIMIT_S, self._drain_limit())):
                    await log.close()


class Publisher(_Front):
    """For engines with threads. Safe to call from any of them; starts its own thread with the first sample, again after a fork."""

    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _stop: asyncio.Event | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._starting = threading.Lock()
        os.register_at_fork(after_in_child=_AfterFork(self))

    def publish(self, sample: InstanceSample, *, layouts: Layouts | None = None, service: str | None = None) -> bool:
        """Hand in a sample; whether it was taken. Returns within microseconds and never raises."""
        if self._thread is None:
            self._start()
        return self._keep(sample, layouts, service)

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> PublisherStats:
        """Deliver what is held, for at most `limit_s`; what is left then counts as dropped. Takes no more samples."""
        self._closed = True
        thread, loop, stop = self._thread, self._loop, self._stop
        if thread is not None:
            atexit.unregister(self._at_exit)
            self._drain_limit.start(limit_s)
            if loop is not None and stop is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                    loop.call_soon_threadsafe(stop.set)
            thread.join(limit_s + _EPILOGUE_S)
        return self.stats

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        """A thread of this process, unless another caller is at it."""
        if self._closed or not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="heteroscale-publisher", daemon=True)
                thread.start()
                self._thread = thread
                atexit.register(self._at_exit)
        except RuntimeError as error:  # no thread to be had: samples stay in the buffer, the engine goes on
            self._outbox.failed(error)
        finally:
            self._starting.release()

    def forked(self) -> None:
        """In a child process: the parent's thread is not here, and what the parent held is its own to deliver."""
        self._starting = threading.Lock()
        self._outbox = Outbox(self._outbox.source, self._limits)
        self._thread = self._loop = self._stop = None

    def _at_exit(self) -> None:
        self.close(EXIT_LIMIT_S)

    def _run(self) -> None:
        async def whole() -> None:
            self._stop = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            if self._closed:
                self._stop.set()
            await self._deliver(self._stop)

        try:
            asyncio.run(whole())
        except Exception as error:  # noqa: BLE001 - the thread must not end loudly inside an engine; `stats` says why it ended
            self._outbox.failed(error)


class _AfterFork:
    """Tells a publisher that still exists; a hook cannot be taken back."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = weakref.ref(publisher)

    def __call__(self) -> None:
        publisher = self._publisher()
        if publisher is not None:
            publisher.forked()


class AsyncPublisher(_Front):
    """For engines on asyncio: `async with AsyncPublisher(...) as publisher`. `publish` is the same and does not await."""

    _task: asyncio.Task[None] | None = None
    _stop: asyncio.Event | None = None

    def publish(self, sample: InstanceSample, *, layouts: Layouts | None = None, service: str | None = None) -> bool:
        """Hand in a sample; whether it was taken. Returns within microseconds and never raises."""
        return self._keep(sample, layouts, service)

    async def start(self) -> Self:
        """Deliver from now on, in a task of this loop."""
        if self._task is None:
            self._stop = asyncio.Event()
            self._task = asyncio.create_task(self._deliver(self._stop), name="heteroscale-publisher")
            self._task.add_done_callback(self._ended)
        return self

    async def close(self, limit_s: float = CLOSE_LIMIT_S) -> PublisherStats:
        """Deliver what is held, for at most `limit_s`; what is left then counts as dropped. Takes no more samples."""
        self._closed = True
        if self._task is not None and self._stop is not None:
            self._drain_limit.start(limit_s)
            self._stop.set()
            await asyncio.wait({self._task}, timeout=limit_s + _EPILOGUE_S)
            self._task.cancel()
        return self.stats

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._outbox.failed(error)
