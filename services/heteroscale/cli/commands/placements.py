"""`heteroscale placements`, `why-unplaced` and `inventory`: where instances run, what keeps others from it, whether the books are right."""

from __future__ import annotations

import asyncio
from typing import Final

import click
import msgspec

from heteroscale.bus.log import Entry, Log
from heteroscale.cli import adoption_plan, live, output, placement_tree
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Adoption, Command
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import NodeName
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.placement import adoption, check, state
from heteroscale.placement.check import Violation
from heteroscale.placement.fleet_topic import FleetTopic
from heteroscale.placement.inventory.entries import FleetImage, Standing, Unreadable, held_by_node
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.placements_topic import PlacementsTopic

SETTLE_S: Final = 0.5
LOOKS: Final = 4  # a worker publishes within milliseconds; what still differs after two seconds is wrong


@click.group()
def placements() -> None:
    """Where instances run, and adoption of running ones."""


@placements.command(
    epilog="""\b
Examples:
  heteroscale placements show chat-70b
  heteroscale placements show chat-70b --json""",
)
@click.argument("service")
@json_option
@connection_options
def show(service: str, *, as_json: bool) -> None:
    """The newest assignment as a tree of groups, domains, roles and instances."""
    placement = run_async(_newest(service))
    if as_json:
        output.emit(placement)
        return
    for line in placement_tree.lines(placement):
        click.echo(line)


@placements.command(
    epilog="""\b
Examples:
  heteroscale placements adopt chat-70b            # what would be adopted, and what stands in the way
  heteroscale placements adopt chat-70b --yes      # send the command""",
)
@click.argument("service")
@click.option("--yes", is_flag=True, help="Send the command; without it nothing is changed.")
@click.option("--fleet", default=None, help="The fleet, if the service has no command and no placement yet.")
@json_option
@connection_options
def adopt(service: str, *, yes: bool, fleet: str | None, as_json: bool) -> None:
    """Bring in running instances that telemetry shows and no placement lists. A dry run unless told otherwise."""
    proposed, refused = run_async(_adopt(service, fleet, send=yes))
    adopted = [one for one in proposed.command.adopt or () if one.instance not in refused]
    if as_json:
        for one in adopted:
            output.emit({"instance": one.instance, "role": one.role, "nodes": one.nodes, "adopted": yes, "reason": None})
        for name, reason in sorted({**proposed.left_out, **refused}.items()):
            output.emit({"instance": name, "adopted": False, "reason": reason})
        return
    rows = [(one.instance, one.role, one.gpu_type, ", ".join(f"{node} x{gpus}" for node, gpus in one.nodes.items())) for one in adopted]
    if rows:
        output.table(("instance", "role", "gpu type", "nodes"), rows)
    for name, reason in sorted({**proposed.left_out, **refused}.items()):
        output.note(f"{name}: not adopted: {reason}")
    if not rows:
        output.note("nothing to adopt")
    elif yes:
        output.note(f"sent as revision {proposed.command.revision}; heteroscale placements show {service}")
    else:
        output.note(f"dry run: {len(rows)} would be adopted as revision {proposed.command.revision}; add --yes to do it")


@click.command(
    "why-unplaced",
    epilog="""\b
Example:
  heteroscale why-unplaced chat-70b""",
)
@click.argument("service")
@json_option
@connection_options
def why_unplaced(service: str, *, as_json: bool) -> None:
    """What keeps a service from being placed, and what would fix it."""
    placement = run_async(_newest(service, dry_runs=True))
    explain = placement.explain
    if as_json:
        output.emit(
            {
                "service": service,
                "status": placement.status.value,
                "shortfall": placement.shortfall,
                "explain": codec.to_document(explain) if explain is not None else None,
                "conflicts": [codec.to_document(one) for one in placement.inputs.conflicts] if placement.inputs else [],
            }
        )
        return
    if not placement.shortfall:
        said = "could be placed as recommended (dry run)" if placement.dry_run else f"has all that was asked for ({placement.status.value})"
        click.echo(f"{service} {said}")
        return
    missing = ", ".join(f"{count} {role}" for role, count in sorted(placement.shortfall.items()))
    click.echo(f"{service} is {placement.status.value}: {missing} missing{' (dry run)' if placement.dry_run else ''}")
    if explain is not None:
        click.echo(f"  best domain: {placement_tree.path(explain.best_domain)}")
        rows = [(role, explain.needed.get(role, 0), explain.available.get(role, 0)) for role in sorted(explain.needed)]
        for role, needed, available in rows:
            click.echo(f"  {role}: {needed} needed, {available} could be had there")
        if explain.blocked_by:
            click.echo(f"  held by: {', '.join(explain.blocked_by)}")
        click.echo(f"  {explain.text}")
    for conflict in placement.inputs.conflicts if placement.inputs else []:
        click.echo(f"  refused: {conflict.gang}" + (f" at node {conflict.node}" if conflict.node else ""))


@click.group()
def inventory() -> None:
    """Who holds which GPU."""


@inventory.command(
    "show",
    epilog="""\b
Example:
  heteroscale inventory show --fleet default""",
)
@click.option("--fleet", default="default", show_default=True)
@json_option
@connection_options
def inventory_show(fleet: str, *, as_json: bool) -> None:
    """Every node: its standing, and who holds its GPUs."""
    image = run_async(live.image(fleet))
    held = held_by_node(image.instances)
    rows = []
    for name, node in sorted(image.nodes.items()):
        at = node.record.at
        holders = sorted({one.service for one in image.instances.values() if name in one.held})
        standing = node.standing.value if node.quarantine is None else f"{node.standing.value} ({node.quarantine.value})"
        place = "/".join(part for part in (at.cluster, at.s2, at.s1, at.s0) if part)
        rows.append((name, place, node.record.gpu_type, standing, node.record.gpus, node.free, held.get(name, 0), node.used, holders))
    columns = ("node", "at", "gpu type", "standing", "gpus", "free", "held", "used", "services")
    if as_json:
        for row in rows:
            output.emit(dict(zip((name.replace(" ", "_") for name in columns), row, strict=True)))
    else:
        output.table(columns, [(*row[:-1], ", ".join(row[-1])) for row in rows])


@inventory.command(
    "check",
    epilog="""\b
Examples:
  heteroscale inventory check
  heteroscale inventory check --fleet default --json""",
)
@click.option("--fleet", default=None, help="One fleet; default: every fleet that fleet.v1 knows.")
@json_option
@connection_options
def inventory_check(fleet: str | None, *, as_json: bool) -> None:
    """All invariants, against Redis, placements.v1 and fleet.v1. Exit code 1 if one is broken."""
    found = run_async(_check(fleet))
    broken = 0
    for name, violations in found.items():
        broken += len(violations)
        if as_json:
            output.emit({"fleet": name, "ok": not violations, "violations": [msgspec.to_builtins(one) for one in violations]})
        elif not violations:
            click.echo(f"{name}: ok (NO-LEAK, NO-OVERLAP, ONCE, WHOLE, SAME-ON-LOG, SAME-FLEET)")
        else:
            for one in violations:
                click.echo(f"{name}: {one.invariant} {one.place}: {one.found}")
    if broken:
        raise click.exceptions.Exit(1)


async def _newest(service: str, *, dry_runs: bool = False) -> Placement:
    connection = connection_of()
    async with connection.log() as log:
        found = await adoption_plan.newest_placement(log, connection.prefix, service, dry_runs=True)
    if found is not None and found.dry_run and not dry_runs:
        raise Rejected(
            "shadow", f"{service!r} is only planned on paper (shadow mode), so it holds nothing; see heteroscale why-unplaced {service}"
        )
    if found is None:
        raise Rejected("unknown_service", f"no placement of {service!r}; see heteroscale get")
    return found


async def _adopt(service: str, fleet: str | None, *, send: bool) -> tuple[adoption_plan.Proposed, dict[str, str]]:
    connection = connection_of()
    async with connection.log() as log:
        proposed = await adoption_plan.propose(log, connection.prefix, service, fleet)
        asked = proposed.command.adopt or ()
        image = await live.image(proposed.command.fleet) if asked else None
        refused: dict[str, str] = {}
        if image is not None:
            conflicts = adoption.conflicts(state.from_image(proposed.command.fleet, 0, image), proposed.command)
            refused = {one.instance: _refusal(image, one, conflicts[one.instance]) for one in asked if one.instance in conflicts}
        if send and proposed.command.adopt:
            await _send(log, connection.prefix, proposed.command)
    return proposed, refused


def _refusal(image: FleetImage, one: Adoption, node: NodeName | None) -> str:
    """What stands in the way of an adoption at a node; null where it is the instance's name."""
    if node is None:
        return "its name is taken"
    known = image.nodes.get(node)
    if known is None:
        why = "the fleet has no such node"
    elif known.record.gpu_type != one.gpu_type:
        why = f"its telemetry says {one.gpu_type}, the fleet {known.record.gpu_type}"
    elif known.standing in (Standing.LOST, Standing.REMOVED):
        why = f"the node is {known.standing.value}"
    else:
        why = f"it takes {one.nodes[node]} GPUs, and at most {known.free + known.used} are not reserved"
    return f"conflict on node {node}: {why}"


async def _send(log: Log, prefix: str, command: Command) -> None:
    topic = topic_name(prefix, Topic.COMMANDS)
    await log.append([Entry(topic, command.fleet.encode(), codec.encode(command), command.at_ms)])


async def _check(fleet: str | None) -> dict[str, list[Violation]]:
    """Look until the worker has published what it reserved, or the looks are used up."""
    connection = connection_of()
    async with connection.log() as log, live.inventory() as opened:
        for look in range(LOOKS):
            found = await _look(log, opened, connection.prefix, fleet)
            if not any(found.values()) or look == LOOKS - 1:
                return found
            await asyncio.sleep(SETTLE_S)
    return found


async def _look(log: Log, opened: Inventory, prefix: str, fleet: str | None) -> dict[str, list[Violation]]:
    nodes = FleetTopic(log, topic_name(prefix, Topic.FLEET))
    try:
        await nodes.catch_up()
    finally:
        await nodes.close()
    index = PlacementsTopic(log, topic_name(prefix, Topic.PLACEMENTS))
    await index.catch_up()
    fleets = [fleet] if fleet is not None else sorted({*nodes.fleets, *(found.fleet for found in index.newest.values())})
    result: dict[str, list[Violation]] = {}
    for name in fleets:
        try:
            image = await opened.read(name)
        except Unreadable as error:
            result[name] = [Violation(invariant="READABLE", place=name, found=str(error))]
            continue
        if image is None:
            result[name] = [Violation(invariant="WHOLE", place=name, found="the inventory was never built, or is lost")]
            continue
        newest = {service: one.placement() for service, one in index.of(name).items()}
        result[name] = [
            *check.inventory(image),
            *check.against_log(image, newest, index.elsewhere(name)),
            *check.against_fleet(image, nodes.newest(name)),
        ]
    return result
