"""`heteroscale demo`: a real day through the whole loop, live."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click
from rich.console import Console

from heteroscale.cli import output
from heteroscale.cli.interrupt import terminated_as_interrupt
from heteroscale.cli.options import Finite, connection_of, server_options
from heteroscale.console import closing_table, live
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.servers import chain, ledger, probe
from heteroscale.servers.chain import Servers
from heteroscale.simulator import demo as simulated
from heteroscale.simulator.cluster import faults
from heteroscale.simulator.demo import Shown

INTERRUPTED = 130


@click.command(
    epilog="""\b
Examples:
  heteroscale demo
  heteroscale demo --hours 2 --fault node:srv1101@1h+20m
  HETEROSCALE_KAFKA=host:9092 HETEROSCALE_REDIS=redis://host:6379/0 heteroscale demo""",
)
@click.option("--hours", default=24.0, show_default=True, type=Finite(min=0.1, max=24.0), help="How much of the day is played.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Draws arrivals and start-up times.")
@click.option("--fault", "fault_texts", multiple=True, metavar="KIND:NAME@TIME[+DURATION]", help="s1, node or instance; may repeat.")
@click.option("--down", is_flag=True, help="Stop the servers that this command started when the day is over.")
@server_options
@click.pass_context
def demo(ctx: click.Context, hours: float, seed: int, fault_texts: tuple[str, ...], *, down: bool) -> None:
    """Play a weekday of real traffic through Kafka and Redis, every service a process of its own.

    Kafka and Redis are those given, else those of `heteroscale servers up`, else they are brought up and stay up, so that
    the topics can be looked at afterwards, under a prefix of the run's own. Ctrl-C stops everything that was started. Exit code
    0 only if it all worked.
    """
    logs.configure(LogFormat.CONSOLE, LogLevel.ERROR)
    connection = connection_of(ctx)
    console = Console()
    parsed = tuple(faults.parse(text) for text in fault_texts)
    options = simulated.Options(hours=hours, seed=seed, faults=parsed, report=output.note)
    started = chain.Options(lasting=True, paired=True, report=output.note)
    with terminated_as_interrupt(), ledger.exclusive("up"):
        servers = chain.provide(connection.kafka, connection.redis, started)
    keep = False
    try:
        _say_servers(console, servers)
        shown = _play(console, servers, options)
        keep = not down and servers.kafka is not None  # an embedded day leaves nothing to look at
    except (KeyboardInterrupt, asyncio.CancelledError):
        output.note("interrupted; stopping what was started")
        ctx.exit(INTERRUPTED)
    finally:
        if not keep:
            for entry in reversed(servers.started):
                chain.end(entry)
    _say_next(console, servers, shown, keep=keep)
    ctx.exit(1 if shown.faults else 0)


def _play(console: Console, servers: Servers, options: simulated.Options) -> Shown:
    screen = live.screen_for(console)
    try:
        shown = asyncio.run(simulated.run(servers, options, screen.show))
    finally:
        screen.close()
    closing_table.show(console, shown.played.closing, shown.played.wall_s)
    closing_table.verdict(console, shown.faults)
    return shown


def _say_servers(console: Console, servers: Servers) -> None:
    for name, address in (("Kafka", servers.kafka), ("Redis", probe.without_password(servers.redis or ""))):
        how = servers.how[name.lower()]
        console.print(f"{name}: {address or 'none'} ({how})", markup=False, highlight=False)
    if servers.kafka is None:
        console.print("embedded log: nothing survives this process")


def _say_next(console: Console, servers: Servers, shown: Shown, *, keep: bool) -> None:
    if servers.kafka is None or (servers.started and not keep):
        return
    console.print("\nWhere to look next:")
    for line in next_commands(servers, shown):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if shown.logs is not None:
        console.print(f"  logs of the services: {shown.logs}", markup=False, highlight=False, soft_wrap=True)


def next_commands(servers: Servers, shown: Shown) -> Sequence[str]:
    """Commands that work as they stand, but for a password, which is not shown."""
    log = f" --prefix {shown.prefix}" + (f" --kafka {servers.kafka}" if servers.how["kafka"] == "given" else "")
    redis = f" --redis {probe.without_password(servers.redis)}" if servers.redis and servers.how["redis"] == "given" else ""
    lines = [f"heteroscale topics describe{log}", f"heteroscale status{log}"]
    moved = shown.played.closing.moved
    if moved is not None:
        lines += [f"heteroscale decisions show {moved.id}{log}", f"heteroscale placements show {moved.service}{log}"]
    if servers.redis is not None:
        lines.append(f"heteroscale inventory check{log}{redis}")
    if servers.started or "running" in servers.how.values():
        lines.append("heteroscale servers down")
    return lines
