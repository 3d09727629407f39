"""`heteroscale fleet …`: the nodes there are, as records of fleet.v1."""

from __future__ import annotations

import asyncio

import click
import msgspec

from heteroscale.bus.log import Entry
from heteroscale.cli import fleet_files, output
from heteroscale.cli.commands import fleet_looks
from heteroscale.cli.commands.fleet_looks import nodes_of_log
from heteroscale.cli.durations import DURATION
from heteroscale.cli.fleet_files import Source
from heteroscale.cli.fleet_source import source_options
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.contracts import codec, keys
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.fleet import FleetNode, NodeState
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import Duration, instant_text
from heteroscale.decision.specs.problems import did_you_mean
from heteroscale.placement.topologies.importers import Imported
from heteroscale.runtime import clock

LOOK_EVERY_S = 0.5
_fleet_option = click.option("--fleet", "fleet_name", metavar="NAME", help="The fleet, where a node's name is not enough.")


@click.group(
    epilog="""\b
Examples:
  heteroscale fleet import FLEET.yaml
  heteroscale fleet show
  heteroscale fleet cordon a1-1 --json""",
)
def fleet() -> None:
    """Import, show, cordon and drain nodes."""


@fleet.command(
    "import",
    epilog="""\b
Examples:
  heteroscale fleet import FLEET.yaml --dry-run
  heteroscale fleet import nodes.csv --fleet eu --prune
  kubectl get nodes -o json | heteroscale fleet import - --format kubernetes
  kubectl get nodes -o json | heteroscale fleet import - --label s1=example.com/leaf --label s2=example.com/spine""",
)
@source_options
@click.option("--prune", is_flag=True, help="Remove nodes of the fleet that the file does not list.")
@click.option("--dry-run", is_flag=True, help="Show what would change, write nothing.")
@json_option
@connection_options
def import_(path: str, source: Source, *, prune: bool, dry_run: bool, as_json: bool) -> None:
    """Write the nodes of a file to fleet.v1; nodes that say the same already are left alone.

    Formats: plain YAML (as `heteroscale plan` reads), CSV (node,gpu_type,gpus,cluster,s2,s1[,s0,state,used,fleet]), topograph
    models, `kubectl get nodes -o json`, Slurm topology.conf and topology.yaml. Nothing is written if anything in the file is wrong.
    A node of which the file says no state keeps the one that it has.
    """
    imported = fleet_files.read(path, source)
    for warning in imported.warnings:
        output.note(f"{path}: note: {warning}")
    changes = run_async(_import(imported, prune=prune, dry_run=dry_run))
    counts = {"created": 0, "changed": 0, "unchanged": 0, "removed": 0}
    for _, what in changes:
        counts[what] += 1
    if as_json:
        output.emit({"path": path, "dry_run": dry_run, **counts})
    else:
        verb = "would be " if dry_run else ""
        click.echo(", ".join(f"{count} {verb if what != 'unchanged' else ''}{what}" for what, count in counts.items()))


async def _import(imported: Imported, *, prune: bool, dry_run: bool) -> list[tuple[str, str]]:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        known = await view.newest_each(FleetNode, Topic.FLEET)
        nodes = fleet_files.as_written(imported, known)
        at_ms = await view.now_ms()
        changes: list[tuple[str, str]] = []
        entries: list[Entry] = []
        for node in nodes:
            key = keys.node_key(node.fleet, node.node)
            before = known.get(key)
            same = before is not None and msgspec.structs.replace(before, observed_at_ms=0) == msgspec.structs.replace(
                node, observed_at_ms=0
            )
            changes.append((key, "unchanged" if same else "created" if before is None else "changed"))
            if not same:
                stamped = msgspec.structs.replace(node, observed_at_ms=node.observed_at_ms or at_ms)
                entries.append(Entry(view.name(Topic.FLEET), key.encode(), codec.encode(stamped), at_ms))
        if prune:
            listed, fleets = {keys.node_key(node.fleet, node.node) for node in nodes}, {node.fleet for node in nodes}
            for key, node in known.items():
                if node.fleet in fleets and key not in listed:
                    changes.append((key, "removed"))
                    entries.append(Entry(view.name(Topic.FLEET), key.encode(), None, at_ms))
        if entries and not dry_run:
            await log.append(entries)
        return changes


@fleet.command(
    epilog="""\b
Examples:
  heteroscale fleet show
  heteroscale fleet show --nodes --fleet eu
  heteroscale fleet show --json""",
)
@click.option("--nodes", "each", is_flag=True, help="A line a node, not a line an s1.")
@_fleet_option
@json_option
@connection_options
def show(*, each: bool, fleet_name: str | None, as_json: bool) -> None:
    """The fleet by topology; who holds which GPU is in `heteroscale inventory`."""
    nodes = [node for node in run_async(nodes_of_log()).values() if fleet_name in {None, node.fleet}]
    if as_json:
        for node in nodes:
            output.emit(node)
    elif not nodes:
        output.note("no nodes; heteroscale fleet import FLEET.yaml")
    elif each:
        heads: tuple[str, ...] = ("fleet", "node", "cluster", "s2", "s1", "s0", "gpu_type", "gpus", "used", "state")
        output.table(heads, [_row(node) for node in nodes])
    else:
        columns = ("fleet", "cluster", "s2", "s1", "nodes", "ready", "gpus", "used", "gpu_types")
        output.table(columns, _by_s1(nodes))


def _row(node: FleetNode) -> tuple[object, ...]:
    at = node.at
    return (node.fleet, node.node, at.cluster, at.s2, at.s1, at.s0, node.gpu_type, node.gpus, node.used, node.state.value)


def _by_s1(nodes: list[FleetNode]) -> list[tuple[object, ...]]:
    places: dict[tuple[str, str, str, str], list[FleetNode]] = {}
    for node in nodes:
        places.setdefault((node.fleet, node.at.cluster, node.at.s2, node.at.s1), []).append(node)
    return [
        (
            *place,
            len(here),
            sum(node.state is NodeState.READY for node in here),
            sum(node.gpus for node in here),
            sum(node.used for node in here),
            ",".join(sorted({node.gpu_type for node in here})),
        )
        for place, here in sorted(places.items())
    ]


@fleet.command(
    epilog="""\b
Example:
  heteroscale fleet cordon a1-1 a1-2""",
)
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@_fleet_option
@json_option
@connection_options
def cordon(nodes: tuple[str, ...], *, fleet_name: str | None, as_json: bool) -> None:
    """Let nodes take nothing new. What runs on them stays."""
    _show(run_async(_mark(nodes, fleet_name, NodeState.CORDONED)), as_json=as_json)


@fleet.command(
    epilog="""\b
Example:
  heteroscale fleet uncordon a1-1""",
)
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@_fleet_option
@json_option
@connection_options
def uncordon(nodes: tuple[str, ...], *, fleet_name: str | None, as_json: bool) -> None:
    """Let nodes take instances again."""
    _show(run_async(_mark(nodes, fleet_name, NodeState.READY)), as_json=as_json)


@fleet.command(
    epilog="""\b
Example:
  heteroscale fleet lost a1-1        # its instances count as failed and are replaced elsewhere""",
)
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@_fleet_option
@json_option
@connection_options
def lost(nodes: tuple[str, ...], *, fleet_name: str | None, as_json: bool) -> None:
    """Say that nodes are gone: their instances count as failed, and are replaced elsewhere."""
    _show(run_async(_mark(nodes, fleet_name, NodeState.LOST)), as_json=as_json)


@fleet.command(
    epilog="""\b
Examples:
  heteroscale fleet drain a1-1
  heteroscale fleet drain a1-1 --wait --timeout 2h""",
)
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait until nothing runs there.")
@click.option("--timeout", type=DURATION, default="1h", show_default=True, help="How long to wait.")
@_fleet_option
@json_option
@connection_options
def drain(nodes: tuple[str, ...], *, wait: bool, timeout: Duration, fleet_name: str | None, as_json: bool) -> None:
    """Cordon nodes and say what still runs there.

    Instances are not cut off: they leave as scale-in, a finished drain or their owner lets them go. To give a node up at
    once, stop its processes and mark it lost.
    """
    marked = run_async(_mark(nodes, fleet_name, NodeState.CORDONED))
    left = run_async(_held(marked, timeout if wait else None))
    if as_json:
        for node in marked:
            here = left.get(node.node, [])
            output.emit({"node": node.node, "fleet": node.fleet, "state": node.state.value, "instances": here})
        return
    for node in marked:
        here = left.get(node.node, [])
        click.echo(f"{node.node}: cordoned, " + (f"{len(here)} instances still there: {', '.join(here)}" if here else "nothing runs there"))


async def _mark(names: tuple[str, ...], fleet_name: str | None, state: NodeState) -> list[FleetNode]:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        known = await view.newest_each(FleetNode, Topic.FLEET)
        found = [_find(name, fleet_name, list(known.values())) for name in names]
        at_ms = await view.now_ms()
        marked = [msgspec.structs.replace(node, state=state, observed_at_ms=at_ms) for node in found]
        topic = view.name(Topic.FLEET)
        await log.append([Entry(topic, keys.node_key(node.fleet, node.node).encode(), codec.encode(node), at_ms) for node in marked])
        return marked


def _find(name: str, fleet_name: str | None, nodes: list[FleetNode]) -> FleetNode:
    """The node of that name. Raises Rejected where it is unknown or in several fleets."""
    found = [node for node in nodes if name in {node.node, keys.node_key(node.fleet, node.node)} and fleet_name in {None, node.fleet}]
    if len(found) > 1:
        fleets = ", ".join(sorted(node.fleet for node in found))
        raise Rejected("ambiguous_node", f"{name!r} is a node of several fleets ({fleets}); name one with --fleet")
    if not found:
        here = [node for node in nodes if fleet_name in {None, node.fleet}]
        others = sorted(node.fleet for node in nodes if node.node == name)
        hint = f"it is in {', '.join(others)}" if others else did_you_mean(name, {node.node for node in here})
        raise Rejected("no_node", f"no node {name!r}{f' in fleet {fleet_name!r}' if fleet_name else ''}; {hint}")
    return found[0]


async def _held(nodes: list[FleetNode], patience: Duration | None) -> dict[str, list[str]]:
    """Instances on each node, by the newest placements; with `patience`, once there are none."""
    connection = connection_of()
    deadline_s = clock.monotonic_s() + (patience.ms / 1_000 if patience else 0)
    names = {node.node for node in nodes}
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        while True:
            left: dict[str, list[str]] = {}
            for placement in (await view.newest_each(Placement, Topic.PLACEMENTS)).values():
                if placement.dry_run or placement.fleet not in {node.fleet for node in nodes}:
                    continue
                for instance in (instance for group in placement.groups for instance in group.instances):
                    for name in sorted(names & set(instance.nodes)):
                        left.setdefault(name, []).append(instance.id)
            if not left or patience is None:
                return left
            if clock.monotonic_s() > deadline_s:
                raise Retryable(f"not drained after {patience}: {', '.join(sorted(left))} still hold instances")
            await asyncio.sleep(LOOK_EVERY_S)


def _show(nodes: list[FleetNode], *, as_json: bool) -> None:
    for node in nodes:
        if as_json:
            output.emit(node)
        else:
            click.echo(f"{node.fleet}/{node.node}: {node.state.value} since {instant_text(node.observed_at_ms)}")


fleet.add_command(fleet_looks.diff)
fleet.add_command(fleet_looks.headroom)
