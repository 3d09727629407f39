"""One desk a service: the newest assignment lies on it, and whoever works there never does an overtaken one.

A desk that is told to try again does so with growing pauses, unless something newer comes; other services do not wait for it. A desk that
is nudged looks again soon, once for many nudges, but not before a pause after a failure is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from heteroscale.actuation.subscriber import Assignment
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Retryable
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.runtime import logs, metrics
from heteroscale.runtime.metrics import Metrics

BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 30.0
FINISH_LIMIT_S: Final = 2.0
NUDGE_S: Final = 0.1  # changes come in bursts: one look for all of them

V = TypeVar("V", Placement, Command)


class Delayed(Retryable):
    """Not now, and the other side said when."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class Bell:
    """What an actuator rings when something that it watches has changed. It rings at the desks it was given; before that, nowhere."""

    def __init__(self) -> None:
        self._heard: Callable[[ServiceName], None] | None = None

    def ring(self, service: ServiceName) -> None:
        """Something about a service has changed."""
        if self._heard is not None:
            self._heard(service)

    def heard_by(self, nudge: Callable[[ServiceName], None]) -> None:
        """Whom to tell from now on."""
        self._heard = nudge


class Desks(Generic[V]):
    """`work` carries out an assignment (`previous` is the last one that was) and may say in how many seconds to look again."""

    def __init__(self, work: Callable[[Assignment[V]], Awaitable[float | None]], registry: Metrics) -> None:
        self._work: Callable[[Assignment[V]], Awaitable[float | None]] = work
        self._registry = registry
        self._newest: dict[ServiceName, V] = {}
        self._news: dict[ServiceName, asyncio.Event] = {}
        self._tasks: dict[ServiceName, asyncio.Task[None]] = {}
        self._busy: set[ServiceName] = set()
        self._failing: set[ServiceName] = set()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = False
        self._logger = logs.logger()

    def put(self, value: V) -> None:
        """Lay an assignment on its service's desk."""
        self._newest[value.service] = value
        self._news.setdefault(value.service, asyncio.Event()).set()
        if value.service not in self._tasks:
            task = asyncio.create_task(self._sit(value.service), name=f"desk-{value.service}")
            task.add_done_callback(self._ended)
            self._tasks[value.service] = task

    def nudge(self, service: ServiceName) -> None:
        """Look at a service again soon, if it is on a desk."""
        if service in self._tasks and not self._closing:
            asyncio.get_running_loop().call_later(NUDGE_S, self._nudged, service)

    def _nudged(self, service: ServiceName) -> None:
        if service not in self._failing:
            self._news[service].set()

    async def close(self) -> None:
        """Let what is under way finish, for a moment; what does not is done again after the next start."""
        self._closing = True
        for service, task in self._tasks.items():
            if service not in self._busy and not self._news[service].is_set():
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=FINISH_LIMIT_S)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if not self.broken.done():
            self.broken.cancel()

    async def _sit(self, service: ServiceName) -> None:
        done: V | None = None
        due_s: float | None = None
        pause_s = BACKOFF_FIRST_S
        news = self._news[service]
        while not self._closing:
            try:
                async with asyncio.timeout(due_s):
                    await news.wait()
            except TimeoutError:
                pass
            news.clear()  # what comes from here on is seen at the next turn
            value = self._newest[service]
            self._busy.add(service)
            try:
                due_s = await self._work(Assignment(value, done))
            except Retryable as error:
                due_s = error.after_s if isinstance(error, Delayed) else pause_s
                pause_s = min(BACKOFF_MAX_S, pause_s * 2)
                self._failing.add(service)
                self._registry.add(metrics.CARRIED_OUT, 1, outcome="retried")
                self._logger.warning("assignment_retried", service=service, error=str(error), pause_s=due_s)
            else:
                pause_s = BACKOFF_FIRST_S
                self._failing.discard(service)
                if done is not value:
                    self._registry.add(metrics.CARRIED_OUT, 1, outcome="done")
                done = value
            finally:
                self._busy.discard(service)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.broken.done():
            self.broken.set_exception(error)
