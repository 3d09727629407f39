"""Options that many commands share, and what they leave behind: where the log and the inventory are, under which prefix.

An option given to the root group or to the command itself means the same; the nearest to the command wins. What is not
given comes from the environment or the TOML file, through runtime.settings, then from what `servers up` left running.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from heteroscale.contracts.errors import Rejected

if TYPE_CHECKING:
    from heteroscale.bus.log import Log
    from heteroscale.bus.settings import BusSettings
    from heteroscale.runtime.settings import RedisSettings

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

Connect = Callable[["Connection"], Awaitable["Log"]]


@dataclass(slots=True)
class Connection:
    """Where to connect, as far as options say. `connect` replaces the way a Log is opened (tests hand in the memory log)."""

    kafka: str | None = None
    redis: str | None = None
    given_prefix: str | None = None
    connect: Connect | None = None
    _given_at: dict[str, int] = field(default_factory=dict)

    def set(self, name: str, value: str, depth: int) -> None:
        """Take an option; one nearer to the command replaces one further away."""
        if depth >= self._given_at.get(name, 0):
            setattr(self, name, value)
            self._given_at[name] = depth

    @property
    def prefix(self) -> str:
        """The topics' prefix: option, environment, file, default. Raises Rejected."""
        if self.given_prefix is not None:
            return self.given_prefix
        from heteroscale.runtime import settings  # noqa: PLC0415 (start-up stays fast)

        return settings.load(settings.BusSettings).prefix

    @asynccontextmanager
    async def log(self) -> AsyncIterator[Log]:
        """The Log, closed afterwards. Raises Rejected without an address, Retryable when it is away."""
        if self.connect is not None:
            yield await self.connect(self)
            return
        from heteroscale.bus import connect  # noqa: PLC0415 (offline commands need no Kafka client)

        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say, the error that follows says
        opened = await connect.open_log(self.bus_settings())
        try:
            yield opened
        finally:
            await opened.close()

    def bus_settings(self) -> BusSettings:
        """Options over environment over file; without an address, what `servers up` left running. Raises Rejected."""
        from heteroscale.runtime import settings  # noqa: PLC0415 (start-up stays fast)

        found = settings.load(settings.BusSettings)
        kafka = self.kafka or found.kafka or _running("kafka")
        if kafka is None:
            raise Rejected("no_log", "no Kafka address; set HETEROSCALE_KAFKA=host:port or --kafka, or start one: heteroscale servers up")
        return settings.replaced(found, kafka=kafka, prefix=self.prefix)

    def redis_settings(self) -> RedisSettings:
        """As `bus_settings`, for the inventory. Raises Rejected."""
        from heteroscale.runtime import settings  # noqa: PLC0415 (start-up stays fast)

        url = self.redis_url()
        if url is None:
            raise Rejected("no_redis", "no Redis address; set HETEROSCALE_REDIS=redis://… or --redis, or start one: heteroscale servers up")
        return settings.replaced(settings.load(settings.RedisSettings), url=url)

    def redis_url(self) -> str | None:
        """The inventory's address: option, environment, file, what `servers up` left running; null for none."""
        from heteroscale.runtime import settings  # noqa: PLC0415 (start-up stays fast)

        return self.redis or settings.load(settings.RedisSettings).url or _running("redis")


def _running(name: str) -> str | None:
    """The address of a server that `servers up` left running."""
    from heteroscale.servers import chain  # noqa: PLC0415 (start-up stays fast)

    entry = chain.running().get(name)
    return entry.address if entry else None


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None and param.name is not None:
        depth = 0
        parent = ctx.parent
        while parent is not None:
            depth, parent = depth + 1, parent.parent
        ctx.ensure_object(Connection).set(param.name, value, depth)


def _connection_option(flag: str, name: str, metavar: str, about: str) -> Callable[[F], F]:
    return click.option(flag, name, metavar=metavar, expose_value=False, callback=_remember, help=about)


class Finite(click.FloatRange):
    """A number within bounds; NaN, which is within all, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails as click's own types do."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def server_options(command: F) -> F:
    """Add `--kafka` and `--redis`; the values reach the command through `connection_of`."""
    redis = _connection_option("--redis", "redis", "URL", "The inventory, such as redis://host:6379/0 [env HETEROSCALE_REDIS].")
    kafka = _connection_option("--kafka", "kafka", "HOST:PORT", "The log's bootstrap address [env HETEROSCALE_KAFKA].")
    return kafka(redis(command))


def connection_options(command: F) -> F:
    """Add `--prefix`, `--kafka` and `--redis`, likewise."""
    about = "Prefix of the topics [env HETEROSCALE_PREFIX; default heteroscale]."
    return _connection_option("--prefix", "given_prefix", "NAME", about)(server_options(command))


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
