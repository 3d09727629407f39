"""`heteroscale get` and `heteroscale describe`: the services there are, and all that is known of one."""

from __future__ import annotations

from typing import Any

import click

from heteroscale.cli import output
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.cli.spec_diff import as_yaml
from heteroscale.cli.spec_store import SpecStore
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import instant_text


@click.command(
    epilog="""\b
Examples:
  heteroscale get
  heteroscale get chat-70b --yaml > chat.yaml
  heteroscale get --json""",
)
@click.argument("services", metavar="[SERVICE]...", nargs=-1)
@click.option("--yaml", "as_yaml_", is_flag=True, help="Spec files, ready for apply.")
@json_option
@connection_options
def get(services: tuple[str, ...], *, as_yaml_: bool, as_json: bool) -> None:
    """List services and their specs in force."""
    specs = run_async(_specs(services))
    if as_json:
        for spec in specs:
            output.emit(spec)
    elif as_yaml_:
        click.echo("---\n".join(as_yaml(spec) for spec in specs), nl=False)
    elif not specs:
        output.note("no service has a spec yet; heteroscale apply SPEC.yaml")
    else:
        columns = ("service", "fleet", "mode", "revision", "applied", "priority", "roles", "signals")
        output.table(columns, [_row(spec) for spec in specs])


async def _specs(services: tuple[str, ...]) -> list[ServiceSpec]:
    connection = connection_of()
    async with connection.log() as log:
        store = SpecStore(LogView(log, connection.prefix))
        if services:
            return [await store.get(service) for service in services]
        return list((await store.in_force()).values())


def mode_text(spec: ServiceSpec) -> str:
    """The mode, and until when."""
    return f"{spec.mode.value} until {spec.until}" if spec.until is not None else spec.mode.value


def _row(spec: ServiceSpec) -> tuple[Any, ...]:
    roles = ", ".join(f"{name} {role.min}..{role.max}" for name, role in sorted(spec.roles.items()))
    signals = ", ".join(f"{signal.metric.value}({signal.role})" for signal in spec.signals)
    applied = None if spec.applied_at_ms is None else instant_text(spec.applied_at_ms // 1000 * 1000)
    return (spec.service, spec.fleet, mode_text(spec), spec.revision, applied, spec.priority, roles, signals)


@click.command(
    epilog="""\b
Examples:
  heteroscale describe chat-70b
  heteroscale describe chat-70b --json""",
)
@click.argument("service")
@json_option
@connection_options
def describe(service: str, *, as_json: bool) -> None:
    """Show all that is known of one service: spec, newest window, decision and placement."""
    spec, window, decision, placement = run_async(_everything(service))
    if as_json:
        parts = {"spec": spec, "window": window, "decision": decision, "placement": placement}
        output.emit({name: None if part is None else codec.to_document(part) for name, part in parts.items()})
        return
    click.echo(as_yaml(spec), nl=False)
    click.echo(f"\nrevision {spec.revision}" + (f": {spec.reason}" if spec.reason else ""))
    _print_window(window)
    _print_decision(decision)
    _print_placement(placement)


async def _everything(service: str) -> tuple[ServiceSpec, SignalWindow | None, Decision | None, Placement | None]:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        return (
            await SpecStore(view).get(service),
            await view.newest(SignalWindow, Topic.SIGNALS, service),
            await view.newest(Decision, Topic.DECISIONS, service),
            await view.newest(Placement, Topic.PLACEMENTS, service),
        )


def _print_window(window: SignalWindow | None) -> None:
    if window is None:
        click.echo("\nno window yet: no telemetry came, or the signals service does not run")
        return
    click.echo(f"\nwindow to {instant_text(window.end_ms)}")
    columns = ("role", "serving", "loading", "draining", "silent", "coverage", "decode_tps", "prefill_tps")
    output.table(
        columns,
        [
            (
                name,
                role.instances.serving,
                role.instances.loading,
                role.instances.draining,
                role.instances.silent,
                role.coverage,
                role.decode_tps,
                role.prefill_tps,
            )
            for name, role in sorted(window.roles.items())
        ],
    )


def _print_decision(decision: Decision | None) -> None:
    if decision is None:
        click.echo("\nno decision yet")
        return
    after = ", ".join(f"{role} {counts.replicas}" for role, counts in sorted(decision.after.items()))
    click.echo(f"\ndecision {decision.id} at {instant_text(decision.at_ms)}: {decision.action.value} ({decision.reason.value}), {after}")


def _print_placement(placement: Placement | None) -> None:
    if placement is None:
        click.echo("\nno placement yet")
        return
    click.echo(f"\nplacement at {instant_text(placement.at_ms)}: {placement.status.value}")
    output.table(
        ("group", "s2", "s1", "role", "instance", "state", "routable", "nodes"),
        [
            (
                group.id,
                group.domain.s2,
                group.domain.s1,
                instance.role,
                instance.id,
                instance.state.value,
                "yes" if instance.routable else "no",
                " ".join(sorted(instance.nodes)),
            )
            for group in placement.groups
            for instance in group.instances
        ],
    )
    if placement.shortfall:
        click.echo("short of " + ", ".join(f"{count} {role}" for role, count in sorted(placement.shortfall.items())))
