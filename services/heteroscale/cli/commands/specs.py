"""`heteroscale specs history|diff|rollback SERVICE`: the revisions of a spec."""

from __future__ import annotations

import click
import msgspec

from heteroscale.cli import output
from heteroscale.cli.field_diff import Change
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.cli.spec_diff import bare, diff
from heteroscale.cli.spec_store import Revision, SpecStore
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.units import instant_text


@click.group(
    epilog="""\b
Examples:
  heteroscale specs history chat-70b
  heteroscale specs diff chat-70b 3 5
  heteroscale specs rollback chat-70b --to 3""",
)
def specs() -> None:
    """History, differences and rollback of a spec."""


@specs.command(
    epilog="""\b
Example:
  heteroscale specs history chat-70b --json""",
)
@click.argument("service")
@json_option
@connection_options
def history(service: str, *, as_json: bool) -> None:
    """All revisions still held, oldest first."""
    revisions = run_async(_history(service))
    before: ServiceSpec | None = None
    rows: list[tuple[object, ...]] = []
    for revision in revisions:
        spec = revision.spec
        if as_json:
            output.emit(spec if spec is not None else {"service": service, "deleted_at_ms": revision.record.timestamp_ms})
        rows.append(
            (
                None if spec is None else spec.revision,
                instant_text(revision.record.timestamp_ms),
                None if spec is None else spec.applied_by,
                None if spec is None else spec.mode.value,
                _changed(before, spec),
                None if spec is None else spec.reason,
            ),
        )
        before = spec
    if not as_json:
        output.table(("revision", "applied", "by", "mode", "changed", "reason"), rows)


def _changed(before: ServiceSpec | None, spec: ServiceSpec | None) -> str:
    """What a revision did, in two words."""
    if spec is None:
        return "let go"
    if before is None:
        return "created"
    count = len(diff(before, spec))
    return "nothing" if count == 0 else "1 field" if count == 1 else f"{count} fields"


@specs.command(
    "diff",
    epilog="""\b
Examples:
  heteroscale specs diff chat-70b          # the newest against the one before
  heteroscale specs diff chat-70b 3 5""",
)
@click.argument("service")
@click.argument("older", type=int, required=False)
@click.argument("newer", type=int, required=False)
@json_option
@connection_options
def diff_(service: str, older: int | None, newer: int | None, *, as_json: bool) -> None:
    """What changed between two revisions."""
    revisions = run_async(_history(service))
    after = _pick(service, revisions, newer) if newer is not None else _newest(service, revisions)
    before = _pick(service, revisions, older) if older is not None else _one_before(service, revisions, after)
    for change in diff(before, after):
        if as_json:
            output.emit(change.document())
        else:
            click.echo(str(change))


@specs.command(
    epilog="""\b
Examples:
  heteroscale specs rollback chat-70b           # to the revision before
  heteroscale specs rollback chat-70b --to 3 --reason "worse tail latency" """,
)
@click.argument("service")
@click.option("--to", "target", type=int, metavar="REVISION", help="The revision to go back to [default: the one before].")
@click.option("--reason", metavar="TEXT", help="Why; kept with the revision.")
@json_option
@connection_options
def rollback(service: str, *, target: int | None, reason: str | None, as_json: bool) -> None:
    """Put an older revision in force again, as a new revision."""
    spec, changes = run_async(_rollback(service, target, reason))
    if as_json:
        output.emit({"service": service, "revision": spec.revision, "changes": [change.document() for change in changes]})
        return
    click.echo(f"{service}: revision {spec.revision} ({spec.reason})")
    for change in changes:
        click.echo(f"  {change}")


async def _history(service: str) -> list[Revision]:
    connection = connection_of()
    async with connection.log() as log:
        return await SpecStore(LogView(log, connection.prefix)).history(service)


async def _rollback(service: str, target: int | None, reason: str | None) -> tuple[ServiceSpec, list[Change]]:
    connection = connection_of()
    async with connection.log() as log:
        store = SpecStore(LogView(log, connection.prefix))
        revisions = await store.history(service)
        newest = _newest(service, revisions)
        wanted = _pick(service, revisions, target) if target is not None else _one_before(service, revisions, newest)
        text = f"rollback to {wanted.revision}" + (f": {reason}" if reason else "")
        applied = await store.apply(msgspec.structs.replace(bare(wanted), revision=newest.revision), reason=text, force=True)
        return applied.spec, applied.changes


def _newest(service: str, revisions: list[Revision]) -> ServiceSpec:
    spec = revisions[-1].spec
    if spec is None:
        raise Rejected("no_service", "was let go; apply a spec to bring it back", service)
    return spec


def _pick(service: str, revisions: list[Revision], number: int) -> ServiceSpec:
    held = {revision.spec.revision: revision.spec for revision in revisions if revision.spec is not None}
    if number not in held:
        raise Rejected("no_revision", f"no revision {number}; held are {', '.join(str(known) for known in held)}", service)
    return held[number]


def _one_before(service: str, revisions: list[Revision], spec: ServiceSpec) -> ServiceSpec:
    older = [one.spec for one in revisions if one.spec is not None and (one.spec.revision or 0) < (spec.revision or 0)]
    if not older:
        raise Rejected("no_revision", f"revision {spec.revision} is the oldest one held", service)
    return older[-1]
