"""`heteroscale servers up|status|down`: a Kafka and a Redis of your own, kept until you take them down."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from heteroscale.cli import output
from heteroscale.cli.interrupt import terminated_as_interrupt
from heteroscale.cli.options import json_option
from heteroscale.servers import chain, ledger, probe, process
from heteroscale.servers.ledger import Entry

KAFKA_PORT = 9092
REDIS_PORT = 6379
_PORT = click.IntRange(1, 65_535)


@click.group(
    epilog="""\b
Examples:
  heteroscale servers up
  heteroscale servers status
  heteroscale servers down --delete-data""",
)
def servers() -> None:
    """Bring up a Kafka and a Redis of your own.

    First match wins: addresses in HETEROSCALE_KAFKA and HETEROSCALE_REDIS, servers that are already up, containers where a
    Docker engine answers, processes of this machine (Java 17 and Maven; redis-server). Data and logs are under .cache/servers.
    """


@servers.command(
    epilog="""\b
Examples:
  eval "$(heteroscale servers up)"          # and the environment says where they are
  heteroscale servers up --kafka-port 19092 --redis-port 16379 --json""",
)
@click.option("--kafka-port", type=_PORT, help=f"Port of Kafka [default: {KAFKA_PORT}, or any free one].")
@click.option("--redis-port", type=_PORT, help=f"Port of Redis [default: {REDIS_PORT}, or any free one].")
@json_option
def up(kafka_port: int | None, redis_port: int | None, *, as_json: bool) -> None:
    """Start what is not up yet, and leave it running. An interrupt leaves nothing behind."""
    options = chain.Options(
        lasting=True,
        kafka_port=kafka_port or _if_free(KAFKA_PORT),
        redis_port=redis_port or _if_free(REDIS_PORT),
        report=output.note,
    )
    with terminated_as_interrupt(), ledger.exclusive("up"):
        found = chain.provide(options=options)
    _note_other_ports(found, {"kafka": kafka_port, "redis": redis_port})
    if as_json:
        output.emit({"kafka": found.kafka, "redis": found.redis, "how": found.how})
    else:
        _print_addresses(found)
    if not found.real:
        sys.exit(1)


@servers.command(
    epilog="""\b
Example:
  heteroscale servers status --json""",
)
@json_option
def status(*, as_json: bool) -> None:
    """What was started here and whether it answers. Exit code 0 when both do."""
    lasting = sorted((entry for entry in ledger.entries() if entry.lasting), key=lambda entry: entry.name)
    states = {entry.name: _state(entry) for entry in lasting}
    for entry in lasting:
        if as_json:
            output.emit(_document(entry, states[entry.name]))
    if not as_json:
        output.table(
            ("server", "state", "how", "address", "pid", "log"),
            [
                (entry.name, states[entry.name], entry.how, entry.address, entry.process and entry.process.pid, entry.log)
                for entry in lasting
            ],
        )
        for entry in lasting:
            if states[entry.name] == "ended" and entry.log is not None:
                output.note(f"{entry.name} ended by itself; its last log lines:\n{process.tail_of(Path(entry.log))}")
        if not lasting:
            output.note("nothing is up; start with: heteroscale servers up")
    if [states.get(name) for name in chain.NAMES] != ["up", "up"]:
        sys.exit(1)


@servers.command(
    epilog="""\b
Examples:
  heteroscale servers down
  heteroscale servers down --delete-data""",
)
@click.option("--delete-data", is_flag=True, help="Delete their data too; the next `up` starts empty.")
@json_option
def down(*, delete_data: bool, as_json: bool) -> None:
    """Stop what `servers up` started, and what ended commands left behind. Other people's servers are never touched."""
    with ledger.exclusive("up"):
        orphans = ledger.orphans()
        ours = [entry for entry in ledger.entries() if entry.lasting] + orphans
        for entry in ours:
            stopped = chain.end(entry, delete_data=True if delete_data or entry in orphans else None)
            if as_json:
                output.emit({"server": entry.name, "address": entry.address, "stopped": stopped})
            else:
                click.echo(f"{entry.name} at {entry.address}: {'stopped' if stopped else 'was not running'}")
    if not ours and not as_json:
        output.note("nothing was up")


def _print_addresses(found: chain.Servers) -> None:
    for name, address in (("kafka", found.kafka), ("redis", found.redis)):
        output.note(f"{name}: {found.how[name]}")
        if address is not None:
            click.echo(f"export {chain.VARIABLE[name]}={shlex.quote(address)}")


def _note_other_ports(found: chain.Servers, wanted: Mapping[str, int | None]) -> None:
    """A port that was asked for is not used for a server that is up already, or given."""
    for name, address in (("kafka", found.kafka), ("redis", found.redis)):
        port = wanted[name]
        if port is None or address is None or found.how[name] not in {"running", "given"} or port in _ports(address):
            continue
        shown = probe.without_password(address)
        cure = "first: heteroscale servers down" if found.how[name] == "running" else f"unset {chain.VARIABLE[name]} for one of your own"
        output.note(f"{name} is {found.how[name]} at {shown}, so --{name}-port {port} is not used; {cure}")


def _ports(address: str) -> set[int]:
    """The ports that an address names: a Redis URL, or a list of brokers."""
    return {int(found) for found in re.findall(r":(\d{1,5})(?=[,/]|$)", address)}


def _if_free(port: int) -> int | None:
    return port if probe.is_free(port) else None


def _state(entry: Entry) -> str:
    if not chain.alive(entry):
        return "ended"
    return "up" if chain.answers(entry) else "mute"


def _document(entry: Entry, state: str) -> dict[str, object]:
    return {
        "server": entry.name,
        "state": state,
        "how": entry.how,
        "address": entry.address,
        "pid": entry.process and entry.process.pid,
        "container": entry.container,
        "log": entry.log,
        "data": entry.data,
    }
