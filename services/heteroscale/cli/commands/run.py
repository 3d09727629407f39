"""`heteroscale run SERVICE`: one service a process, or all in this one."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import click
import msgspec

from heteroscale.cli import output
from heteroscale.cli.options import Connection, connection_of, connection_options
from heteroscale.contracts.errors import Rejected
from heteroscale.runtime import lifecycle, settings
from heteroscale.runtime.context import Context

SERVICES: Final[Mapping[str, str]] = {  # name of the process, and the package whose app it is
    "signals": "signals",
    "decision": "decision",
    "placement": "placement",
    "actuator": "actuation",
}
SAME: Final = {"actuation": "actuator"}  # the package's name is understood too
ALL: Final = "all"
TICKING: Final = "signals"
Serve: TypeAlias = Callable[[Context, Any], Awaitable[None]]


@click.command(
    epilog="""\b
Examples:
  heteroscale run decision --kafka 127.0.0.1:9092
  heteroscale run all                      # without any Kafka: on a log in memory that ends with the process
  heteroscale run signals --ticker off     # a simulator drives time""",
)
@click.argument("service", type=click.Choice([*SERVICES, ALL, *SAME]), metavar="|".join([*SERVICES, ALL]))
@click.option(
    "--ticker",
    type=click.Choice([switch.value for switch in settings.Switch]),
    help="Whether the signals service ticks [env HETEROSCALE_TICKER; default on].",
)
@click.option("--settings", "show_settings", is_flag=True, help="Print the settings that would be used (passwords hidden) and end.")
@connection_options
@click.pass_context
def run(ctx: click.Context, service: str, *, ticker: str | None, show_settings: bool) -> None:
    """Run a service, or all of them, until SIGTERM or Ctrl-C.

    Settings come from the environment (HETEROSCALE_…) and, if HETEROSCALE_CONFIG names one, a TOML file; --settings prints
    them. Health, readiness and metrics are served on HETEROSCALE_HTTP_PORT. Exit code 0 after a clean end.
    """
    connection = connection_of(ctx)
    service = SAME.get(service, service)
    names = tuple(SERVICES) if service == ALL else (service,)
    if ticker is not None and TICKING not in names:
        raise click.UsageError(f"--ticker is the {TICKING} service's; {service} does not tick")
    process = settings.load(settings.ProcessSettings)
    bus = _bus(connection, alone=service != ALL)
    serves: dict[str, Serve] = {name: importlib.import_module(f"heteroscale.{SERVICES[name]}.app").serve for name in names}
    chosen = {name: _settings(serve, connection) for name, serve in serves.items()}
    if ticker is not None:
        chosen[TICKING] = settings.replaced(chosen[TICKING], ticker=settings.Switch(ticker))
    if show_settings:
        for title, one in {"process": process, "bus": bus, **chosen}.items():
            output.emit({title: settings.redacted(one)})
        return
    if bus.kafka is None:
        output.note("embedded log: nothing survives this process")
    services = {name: _service(serve, chosen[name]) for name, serve in serves.items()}
    ctx.exit(lifecycle.run_process(service, services, process=process, bus=bus))


def _bus(connection: Connection, *, alone: bool) -> settings.BusSettings:
    """The log's settings; `run all` goes without an address, on the log in memory. Raises Rejected for a service alone."""
    try:
        return connection.bus_settings()
    except Rejected as error:
        if alone or error.code != "no_log":
            raise
        return settings.replaced(settings.load(settings.BusSettings), prefix=connection.prefix)


def _settings(serve: Serve, connection: Connection) -> msgspec.Struct:
    """The settings that a service asks for, with the inventory's address where it has one."""
    kind: type[msgspec.Struct] = typing.get_type_hints(serve)["settings"]
    found = settings.load(kind)
    if issubclass(kind, settings.RedisSettings):
        url = connection.redis_url()
        return found if url is None else settings.replaced(found, url=url)
    return found


def _service(serve: Serve, own: msgspec.Struct) -> Callable[[Context], Awaitable[None]]:
    async def service(context: Context) -> None:
        await serve(context, own)

    return service
