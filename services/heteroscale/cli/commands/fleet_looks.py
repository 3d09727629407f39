"""`heteroscale fleet diff` and `fleet headroom`: what a file would change, and how much more fits. Both only look."""

from __future__ import annotations

import click

from heteroscale.cli import adoption_plan, fleet_diff, fleet_files, output, placement_tree
from heteroscale.cli.fleet_files import Source
from heteroscale.cli.fleet_source import source_options
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.topics import Topic
from heteroscale.decision.specs.problems import did_you_mean
from heteroscale.placement.planning import headroom as planning
from heteroscale.placement.planning.model import IdSource, Request, Snapshot


async def nodes_of_log() -> dict[str, FleetNode]:
    """The newest record of every node, by its key."""
    connection = connection_of()
    async with connection.log() as log:
        return await LogView(log, connection.prefix).newest_each(FleetNode, Topic.FLEET)


@click.command(
    epilog="""\b
Examples:
  heteroscale fleet diff FLEET.yaml
  heteroscale fleet diff FLEET.yaml --json""",
)
@source_options
@json_option
@connection_options
def diff(path: str, source: Source, *, as_json: bool) -> None:
    """What `fleet import --prune` would change, field by field. Exit 1 if anything differs. Writes nothing."""
    imported, known = fleet_files.read(path, source), run_async(nodes_of_log())
    differences = fleet_diff.between(known.values(), fleet_files.as_written(imported, known))
    for one in differences:
        if as_json:
            output.emit(one)
        else:
            click.echo(fleet_diff.line(one))
    if differences:
        raise click.exceptions.Exit(1)
    if not as_json:
        output.note("no difference")


@click.command(
    epilog="""\b
Examples:
  heteroscale fleet headroom chat-70b
  heteroscale fleet headroom chat-70b --json""",
)
@click.argument("service")
@click.option("--fleet", "fleet_name", metavar="NAME", default="default", show_default=True)
@json_option
@connection_options
def headroom(service: str, *, fleet_name: str, as_json: bool) -> None:
    """How many more units of a service fit, by domain and pool class, in the live inventory. Reads only."""
    snapshot, command = run_async(_asked(service, fleet_name))
    request = Request(command=command, ids=IdSource(service, "headroom"))
    unit, found = dict(planning.unit_of(snapshot, request)), planning.headroom(snapshot, request)
    if as_json:
        domains = [{"domain": codec.to_document(one.domain), "pool": one.pool.value, "units": one.units} for one in found]
        output.emit({"service": service, "fleet": fleet_name, "unit": unit, "units": sum(one.units for one in found), "domains": domains})
        return
    size = ", ".join(f"{count} {role}" for role, count in unit.items())
    click.echo(f"{service}: room for {sum(one.units for one in found)} more units of {size}")
    if found:
        output.table(("domain", "pool", "units"), [(placement_tree.path(one.domain), one.pool.value, one.units) for one in found])


async def _asked(service: str, fleet_name: str) -> tuple[Snapshot, Command]:
    """The live fleet, and what the service asks for or, in shadow mode, would ask for."""
    from heteroscale.cli import live  # noqa: PLC0415 (the inventory's client, for this alone)

    image = await live.image(fleet_name)
    command = image.services[service].command if service in image.services else await _recommended(service)
    if command is None or command.fleet != fleet_name:
        raise Rejected("unknown_service", f"fleet {fleet_name!r} has no service {service!r}; {did_you_mean(service, set(image.services))}")
    return live.snapshot_of(fleet_name, image), command


async def _recommended(service: str) -> Command | None:
    connection = connection_of()
    async with connection.log() as log:
        return await adoption_plan.newest_command(log, connection.prefix, service)
