"""`heteroscale plan FLEET.yaml REQUESTS.yaml`: one scheduling cycle on paper, by the same planner as the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click
from rich.console import Console
from rich.tree import Tree

from heteroscale.cli import completing, output, plan_files
from heteroscale.cli.options import connection_options, json_option, run_async
from heteroscale.cli.plan_files import PlanInput
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import Domain, Group
from heteroscale.placement.planning import planner
from heteroscale.placement.planning.model import Planned

EXAMPLE = """\b
Examples:
  heteroscale plan fleet.yaml requests.yaml --json
  heteroscale plan --against live requests.yaml        # what would happen now; reads only

\b
fleet.yaml:
  fleet: default
  nodes:
    - {node: a1-1, gpu_type: H20, gpus: 8, at: {cluster: c1, s2: A, s1: a1}}
    - {node: a1-2, gpu_type: H20, gpus: 8, at: {cluster: c1, s2: A, s1: a1}, used: 4}
  groups:
    - {id: g1, service: chat, instances: [{id: i1, role: prefill, nodes: {a1-1: 8}, state: ready}]}

\b
requests.yaml:
  requests:
    - {service: code, roles: {prefill: {add: 1, gpus: 2, gpu_types: [H20]}, decode: {add: 2, gpus: 1, gpu_types: [H20]}}}"""

PIPED_WIDTH: Final = 1_000  # columns; into a pipe or a file nothing is cut off


@click.command(epilog=EXAMPLE)
@click.argument("files", metavar="[FLEET.yaml] REQUESTS.yaml", nargs=-1, required=True, shell_complete=completing.files)
@click.option(
    "--against", type=click.Choice(["file", "live"]), default="file", show_default=True, help="FLEET.yaml, or the live inventory."
)
@click.option("--fleet", "fleet_name", metavar="NAME", default="default", show_default=True, help="The fleet, with --against live.")
@json_option
@connection_options
def plan(files: tuple[str, ...], *, against: str, fleet_name: str, as_json: bool) -> None:
    """Plan requests on a fleet, on paper.

    Prints one line a request, in the file's order, with status, reason, new and changed groups and an explanation; without
    `--json` as a tree. Exit 2 if a file makes no sense.
    """
    given = _given(files, fleet_name if against == "live" else None)
    planned = planner.plan(given.snapshot, given.requests)
    if as_json:
        for answer in planned:
            output.emit(document(answer))
        return
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    for answer in planned:
        console.print(tree(answer))


def _given(files: tuple[str, ...], live_fleet: str | None) -> PlanInput:
    """A fleet and requests from files, or requests on what the inventory holds now."""
    if live_fleet is not None:
        if len(files) != 1:
            raise Rejected("plan", "--against live takes REQUESTS.yaml alone; the fleet is the live one")
        from heteroscale.cli import live  # noqa: PLC0415 (the inventory's client, for this alone)

        return plan_files.load_requests(files[0], live.snapshot_of(live_fleet, run_async(live.image(live_fleet))))
    if len(files) != 2:
        raise Rejected("plan", "takes FLEET.yaml and REQUESTS.yaml; or --against live and REQUESTS.yaml")
    return plan_files.load(*files)


def document(answer: Planned) -> dict[str, Any]:
    """The output line: only new or changed groups, whole but for what is released."""
    released = set(answer.released)
    groups = []
    for group in answer.assignment:
        if group.id in answer.changed:
            listed = codec.to_document(group)
            listed["instances"] = [instance for instance in listed["instances"] if instance["id"] not in released]
            groups.append({**listed, "new": group.id in answer.born})
    line = {
        "service": answer.service,
        "status": str(answer.status),
        "groups": groups,
        "released": list(answer.released),
        "shortfall": dict(answer.shortfall),
        "reason": str(answer.reason),
        "explain": codec.to_document(answer.explain),
    }
    return {**line, "dry_run": True} if answer.dry_run else line


def tree(answer: Planned) -> Tree:
    """A request's answer for people: group, domain, then instances on their nodes."""
    dry = " (dry run)" if answer.dry_run else ""
    verdict = answer.status if answer.status.value == answer.reason.value else f"{answer.status}, {answer.reason}"
    root = Tree(f"[bold]{answer.service}[/bold]{dry}  {verdict}: {answer.explain.text}")
    for group in answer.assignment:
        if group.id in answer.changed:
            _add_group(root, group, answer)
    if answer.released:
        root.add(f"released: {', '.join(answer.released)}")
    if answer.shortfall:
        found = answer.explain
        best = f"best in {_domain(found.best_domain)}: {_counts(found.available)}" if found.best_domain else "no domain has any"
        root.add(f"missing: {_counts(answer.shortfall)}; {best} of {_counts(found.needed)}")
    return root


def _add_group(root: Tree, group: Group, answer: Planned) -> None:
    new = "new, " if group.id in answer.born else ""
    worse = f", degraded: {group.degraded_reason or 'as before'}" if group.degraded else ""
    branch = root.add(f"group {group.id}  {new}{_domain(group.domain)}, {group.pool} pool{worse}")
    for instance in group.instances:
        if instance.id not in answer.released:
            part = f"/{instance.part}" if instance.part else ""
            replica = f" of replica {instance.replica}" if instance.replica is not None else ""
            nodes = ", ".join(f"{node}:{gpus}" for node, gpus in sorted(instance.nodes.items()))
            branch.add(f"{instance.role}{part}{replica}  {instance.gpu_type}  {nodes}  {instance.state}  ({instance.id})")


def _domain(domain: Domain) -> str:
    return "/".join(part for part in (domain.cluster, domain.s2, domain.s1) if part) or "several clusters"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {role}" for role, count in sorted(counts.items())) if counts else "none"
