"""Options that many commands share, and what they leave behind: where the log and the inventory are, under which prefix.

An option given to the root group or to the command itself means the same; the nearest to the command wins. Unset ones come
from the environment through the settings of the bus.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from heteroscale.bus.log import Log

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DEFAULT_PREFIX = "heteroscale"
Connect = Callable[["Connection"], Awaitable["Log"]]


@dataclass(slots=True)
class Connection:
    """Where to connect. `connect` replaces the way a Log is opened (tests hand in the memory log)."""

    prefix: str = DEFAULT_PREFIX
    kafka: str | None = None
    redis: str | None = None
    connect: Connect | None = None
    overrides: dict[str, str] = field(default_factory=dict)
    _given_at: dict[str, int] = field(default_factory=dict)

    def set(self, name: str, value: str, depth: int) -> None:
        """Take an option; one nearer to the command replaces one further away."""
        if depth >= self._given_at.get(name, -1):
            setattr(self, name, value)
            self._given_at[name] = depth
            self.overrides[name] = value

    @asynccontextmanager
    async def log(self) -> AsyncIterator[Log]:
        """The Log, closed afterwards. Raises Retryable when it is away."""
        if self.connect is not None:
            yield await self.connect(self)
            return
        from heteroscale.bus import connect  # noqa: PLC0415 (the Kafka client is not needed by offline commands)

        opened = await connect.connect(self.kafka)
        try:
            yield opened
        finally:
            await opened.close()


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None and param.name is not None:
        depth = 0
        parent = ctx.parent
        while parent is not None:
            depth, parent = depth + 1, parent.parent
        ctx.ensure_object(Connection).set(param.name, value, depth)


def connection_options(command: F) -> F:
    """Add `--prefix`, `--kafka` and `--redis`; the values reach the command through `connection_of`."""
    for option in (
        click.option(
            "--redis",
            metavar="URL",
            expose_value=False,
            callback=_remember,
            envvar="HETEROSCALE_REDIS",
            help="The inventory, such as redis://host:6379/0 [env HETEROSCALE_REDIS].",
        ),
        click.option(
            "--kafka",
            metavar="HOST:PORT",
            expose_value=False,
            callback=_remember,
            envvar="HETEROSCALE_KAFKA",
            help="The log's bootstrap address [env HETEROSCALE_KAFKA].",
        ),
        click.option(
            "--prefix",
            metavar="NAME",
            expose_value=False,
            callback=_remember,
            envvar="HETEROSCALE_PREFIX",
            help=f"Prefix of the topic names [env HETEROSCALE_PREFIX; default {DEFAULT_PREFIX}].",
        ),
    ):
        command = option(command)
    return command


def json_option(command: F) -> F:
    """Add `--json` (parameter `as_json`)."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document a line and nothing else on stdout.")(command)


def connection_of(ctx: click.Context | None = None) -> Connection:
    """The connection of the running command."""
    found: Connection = (ctx or click.get_current_context()).ensure_object(Connection)
    return found


def run_async(work: Awaitable[T]) -> T:
    """Run a command's coroutine to its end."""

    async def whole() -> T:
        return await work

    return asyncio.run(whole())
