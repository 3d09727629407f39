"""Decisions for people: one line, and the table of stages."""

from __future__ import annotations

from collections.abc import Sequence

import click

from heteroscale.cli import output
from heteroscale.cli.field_diff import Change
from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.units import instant_text


def title(decision: Decision) -> str:
    """`12:00 chat scale-out (demand): decode 8 → 12, prefill 4 → 6`."""
    return (
        f"{instant_text(decision.at_ms)} {decision.service} {decision.action.value} ({decision.reason.value}): "
        f"{moves(decision)}  {decision.id}"
    )


def moves(decision: Decision) -> str:
    """Counts before and after, per role."""
    parts = []
    for role, after in sorted(decision.after.items()):
        before = decision.before.get(role)
        was = after.replicas if before is None else before.replicas
        parts.append(move(role, was, after.replicas, after.draining))
    return ", ".join(parts)


def move(role: str, before: int, after: int, draining: int) -> str:
    """`decode 8 → 12 (+1 draining)`."""
    text = f"{role} {after}" if before == after else f"{role} {before} → {after}"
    return text + (f" (+{draining} draining)" if draining else "")


def stage_table(decision: Decision) -> None:
    """Each stage: the counts before it and after it, its reason, and what it says."""
    roles = sorted(decision.after)
    before = {role: found.replicas for role, found in decision.before.items()}
    rows = []
    for stage in decision.stages:
        cells = []
        for role in roles:
            was, now = before.get(role), stage.value.get(role)
            cells.append(str(now) if was == now else f"{was} → {now}")
        before = dict(stage.value)
        rows.append((stage.stage.value, *cells, stage.reason.value if stage.reason else None, stage.detail))
    output.table(("stage", *roles, "reason", "detail"), rows)


def whole(decision: Decision) -> None:
    """All that a decision says."""
    click.echo(title(decision))
    click.echo(f"spec revision {decision.spec_revision}, policy {decision.policy_version}, mode {decision.mode.value}")
    found = [
        (role, counts.replicas, counts.draining, counts.serving, counts.pending, counts.foreign)
        for role, counts in sorted(decision.before.items())
    ]
    output.table(("before", "replicas", "draining", "serving", "pending", "foreign"), found)
    click.echo("")
    stage_table(decision)
    what = "changes nothing" if decision.action is Action.HOLD else decision.action.value
    click.echo(f"\n{what}; command {decision.command_id or 'none'}; state {decision.state_digest}")
    for at, offset in sorted(decision.inputs.items()):
        click.echo(f"read {at} up to offset {offset - 1}")


def state_changes(changes: Sequence[Change] | None) -> None:
    """What a decision changed in the state that the next one starts from."""
    if changes is None:
        click.echo("the state after it is no longer on decision-state.v1, which keeps the newest")
        return
    for change in changes:
        click.echo(f"state {change}")
