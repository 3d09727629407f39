"""`heteroscale apply SPEC.yaml…`: put specs in force, one revision each."""

from __future__ import annotations

import click

from heteroscale.cli import completing, output, preview
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.cli.spec_files import LoadedSpec, load_sound
from heteroscale.cli.spec_store import Applied, SpecStore
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Decision
from heteroscale.decision.specs.advice import advise


@click.command(
    epilog="""\b
Examples:
  heteroscale apply chat.yaml --dry-run
  heteroscale apply chat.yaml code.yaml --reason "more headroom for the launch"
  heteroscale get chat-70b --yaml | sed 's/mode: shadow/mode: active/' | heteroscale apply -""",
)
@click.argument("paths", metavar="SPEC.yaml...", nargs=-1, required=True, shell_complete=completing.files)
@click.option("--dry-run", is_flag=True, help="Show what would change and be decided now, write nothing.")
@click.option("--reason", metavar="TEXT", help="Why; kept with the revision.")
@json_option
@connection_options
def apply(paths: tuple[str, ...], *, dry_run: bool, reason: str | None, as_json: bool) -> None:
    """Put specs in force.

    All files are checked first; nothing is written if any spec makes no sense. A spec that says the same as the one in force
    is left alone. A `revision` in the file must be the one in force; without it the newest is replaced. Refused if another
    writer comes between.
    """
    loaded = load_sound(paths)
    for applied, decision in run_async(_apply(loaded, reason, dry_run=dry_run)):
        if as_json:
            output.emit(
                {
                    "service": applied.spec.service,
                    "action": applied.action,
                    "revision": applied.spec.revision,
                    "applied_at_ms": applied.spec.applied_at_ms,
                    "dry_run": dry_run,
                    "changes": [change.document() for change in applied.changes] if applied.before else [],
                    "would_decide": None if decision is None else codec.to_document(decision),
                },
            )
        else:
            _print(applied, dry_run=dry_run)
            if dry_run:
                click.echo(f"  {preview.sentence(decision)}")


async def _apply(loaded: list[LoadedSpec], reason: str | None, *, dry_run: bool) -> list[tuple[Applied, Decision | None]]:
    """All specs on paper first, so that a conflict in one keeps all from being written; then, unless dry, for good."""
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        store = SpecStore(view)
        dry = [await store.apply(one.spec, reason=reason, dry_run=True) for one in loaded]
        if dry_run:
            return [(applied, await preview.decision_under(view, applied.spec)) for applied in dry]
        return [(await store.apply(one.spec, reason=reason), None) for one in loaded]


def _print(applied: Applied, *, dry_run: bool) -> None:
    spec = applied.spec
    would = "would be " if dry_run and applied.action != "unchanged" else ""
    click.echo(f"{spec.service}: {would}{applied.action}, revision {spec.revision}, {spec.mode.value} mode")
    if applied.before is not None:
        for change in applied.changes:
            click.echo(f"  {change}")
    for hint in advise(spec):
        output.note(f"  note: {hint}")
