"""Who runs the services while a world is played: processes of their own, or tasks in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from heteroscale.bus.log import Log
from heteroscale.contracts.errors import Broken
from heteroscale.placement.inventory.entries import FleetImage
from heteroscale.runtime.clock import SYSTEM
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.servers.probe import LOOPBACK, free_port
from heteroscale.simulator.loop.children import Children

READY_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 10.0
ASK_EVERY_S: Final = 0.1
SERVICES: Final = ("signals", "decision", "placement")

Serve = Callable[[Context], Awaitable[None]]


class Crew(Protocol):
    """Starts the services, says who died, stops them."""

    async def start(self) -> None:
        """Start all and wait until all are ready. Raises Broken with the last words of one that was not."""
        ...

    def died(self) -> str | None:
        """A service that has ended, with its last words; null while all run."""
        ...

    async def stop(self) -> None:
        """Stop all; bounded in time, leaves nothing."""
        ...


@dataclass(slots=True)
class Processes:
    """`heteroscale run NAME` for each service."""

    children: Children
    names: Sequence[str]
    ports: dict[str, int] = field(default_factory=dict)

    async def start(self) -> None:
        """Start all, then ask each for its readiness."""
        for name in self.names:
            self.ports[name] = free_port()
            self.children.start(name, {"HETEROSCALE_HTTP_PORT": str(self.ports[name])})
        until = SYSTEM.monotonic_s() + READY_WITHIN_S
        for name, port in self.ports.items():
            while not await ready(port):
                self.children.require()
                if SYSTEM.monotonic_s() > until:
                    raise Broken(f"{name} was not ready after {READY_WITHIN_S:g} s; see {self.children.folder / name}.log")
                await asyncio.sleep(ASK_EVERY_S)

    def died(self) -> str | None:
        """The first process that has ended."""
        return self.children.died()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL, by pid."""
        await asyncio.to_thread(self.children.stop)


async def ready(port: int) -> bool:
    """What /readyz of a process on this machine says; false while nothing answers."""
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


@dataclass(slots=True)
class Tasks:
    """The `serve` of each service as a task over one log in this process."""

    log: Log
    prefix: str
    services: Mapping[str, Serve]
    contexts: dict[str, Context] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def start(self) -> None:
        """Start all and let each of them come up."""
        for name, serve in self.services.items():
            context = Context(log=self.log, prefix=self.prefix, health=Health())
            self.contexts[name] = context
            self.tasks[name] = asyncio.create_task(_run(serve, context), name=name)
        until = SYSTEM.monotonic_s() + READY_WITHIN_S
        while waiting := {name: context.health.report() for name, context in self.contexts.items() if not context.health.ready}:
            died = self.died()
            if died is not None:
                raise Broken(died)
            if SYSTEM.monotonic_s() > until:
                raise Broken(f"not ready after {READY_WITHIN_S:g} s: {waiting}")
            await asyncio.sleep(0.001)

    def died(self) -> str | None:
        """The first task that has ended."""
        for name, task in self.tasks.items():
            if task.done() and not task.cancelled():
                error = task.exception()
                return f"{name} ended: {error!r}" if error is not None else f"{name} ended without a word"
        return None

    async def stop(self) -> None:
        """Ask all to stop, then cancel what is left."""
        for context in self.contexts.values():
            context.stop.set()
        if self.tasks:
            _, left = await asyncio.wait(self.tasks.values(), timeout=STOP_WITHIN_S)
            for task in left:
                task.cancel()
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        self.tasks.clear()


async def _run(serve: Serve, context: Context) -> None:
    await serve(context)


def leaks(image: FleetImage | None) -> list[str]:
    """Nodes whose accounts do not add up: free + held + used is to be all GPUs."""
    if image is None:
        return ["the inventory holds no fleet"]
    held: dict[str, int] = {}
    for instance in image.instances.values():
        for node, gpus in instance.held.items():
            held[node] = held.get(node, 0) + gpus
    return [
        f"node {name}: {entry.free} free + {held.get(name, 0)} held + {entry.used} used is not {entry.record.gpus} GPUs"
        for name, entry in sorted(image.nodes.items())
        if entry.free + held.get(name, 0) + entry.used != entry.record.gpus
    ]
