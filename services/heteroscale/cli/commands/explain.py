"""`heteroscale explain`: one decision of an incident, back to the samples and forward to the nodes; or why not another."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from heteroscale.cli import decision_text, output
from heteroscale.cli.options import json_option
from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.units import Instant, instant_text, millis
from heteroscale.replay import archive, whynot
from heteroscale.replay import explain as chain
from heteroscale.replay.explain import Explanation, Heard
from heteroscale.replay.manifest import Span
from heteroscale.replay.recorded import Found, Recorded

SHOWN = 12
FIGURES = ("decode_tps", "prefill_tps", "prefill_missed_tps", "coverage", "gpu_util", "kv_usage")


@click.command(
    epilog="""\b
Examples:
  heteroscale explain inc-142/ 303d9133
  heteroscale explain inc-142/ --at 17:21:30
  heteroscale explain inc-142/ --at 2026-11-22T17:21:30Z --service chat-70b --why-not scale-out""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("decision_id", metavar="[ID]", required=False)
@click.option("--at", "at_text", metavar="INSTANT", help="The decisions in force then; a time alone means the day of the bundle.")
@click.option("--service", "-s", default=None, help="Only this service.")
@click.option("--why-not", "wanted", type=click.Choice([action.value for action in Action]), help="What would have led to this instead.")
@click.option("--all", "everything", is_flag=True, help="Every instance and every move, however many.")
@json_option
def explain(  # noqa: PLR0913 - one parameter an option
    bundle: Path,
    decision_id: str | None,
    at_text: str | None,
    service: str | None,
    wanted: str | None,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """Explain one decision: its stages, the window and the samples it came from, and what followed of it.

    Every figure has its place, TOPIC/PARTITION@OFFSET, and the command to read that record with.
    """
    if (decision_id is None) == (at_text is None):
        raise Rejected("which", "give a decision's ID, or --at INSTANT", "explain")
    with archive.opened(bundle) as opened:
        recorded = Recorded(opened)
        if decision_id is not None:
            found = [chain.find(recorded, decision_id)]
        else:
            found = chain.in_force(recorded, instant_of(at_text or "", opened.manifest.window), service)
        for one in found:
            if wanted is not None:
                _why_not(recorded, one, Action(wanted), as_json=as_json)
                continue
            told = chain.explain(recorded, one)
            if as_json:
                output.emit(msgspec.to_builtins(told))
            else:
                _tell(told, SHOWN if not everything else 1_000_000)


def instant_of(text: str, window: Span) -> int:
    """An instant, or a time of day (UTC) inside the bundle's window. Raises Rejected (`instant`)."""
    try:
        return Instant.parse(text).ms
    except ValueError:
        pass
    day = datetime.fromtimestamp(window.from_ms / 1000, UTC).date()
    for date in (day, datetime.fromtimestamp(min(window.to_ms, 253_402_300_799_000) / 1000, UTC).date()):
        try:
            at = millis(datetime.fromisoformat(f"{date}T{text}").replace(tzinfo=UTC))
        except ValueError as error:
            raise Rejected("instant", "write it such as 17:21:30 or 2026-11-22T17:21:30Z", text) from error
        if window.from_ms <= at <= window.to_ms:
            return at
    raise Rejected("instant", f"is not in {instant_text(window.from_ms)} to {instant_text(window.to_ms)}", text)


def _tell(told: Explanation, shown: int) -> None:
    decision_text.whole(told.decision)
    _tell_origin(told)
    click.echo(f"\nWho was heard: {sum(one.samples for one in told.heard)} samples of {len(told.heard)} instances")
    output.table(("instance", "role", "node", "samples", "decode tokens", "prompt tokens", "from", "to"), map(_row, told.heard[:shown]))
    _more(len(told.heard), shown)
    _tell_consequences(told, shown)
    click.echo("\nTo read a record yourself")
    for place in [told.decision_at, *([told.window_at] if told.window_at else []), *told.commands[:1], *told.answers[:1]]:
        click.echo(f"  {chain.kcat(place)}")


def _tell_origin(told: Explanation) -> None:
    places = {
        "decision": told.decision_at,
        "state": told.state_at,
        "spec": told.spec_at,
        "window": told.window_at,
        "closed by": told.window_closed_by,
    }
    click.echo("\nWhere it came from")
    for title, place in places.items():
        click.echo(f"  {title:9} {place or 'not in the bundle'}")
    for place in told.placements_read:
        click.echo(f"  placement {place}")
    for role, seen in told.window.items():
        known = {name: getattr(seen, name) for name in FIGURES}
        figures = ", ".join(f"{name} {value:g}" for name, value in known.items() if value is not None)
        counts = seen.instances
        states = f"{counts.serving} serving, {counts.loading} loading, {counts.draining} draining, {counts.silent} silent"
        click.echo(f"  {role}: {states}; {figures}")


def _tell_consequences(told: Explanation, shown: int) -> None:
    click.echo("\nWhat followed")
    if not told.commands:
        click.echo("  no command went out with this decision")
    for place in told.commands:
        click.echo(f"  command   {place}")
    for place in told.answers[:shown]:
        click.echo(f"  answer    {place}")
    _more(len(told.answers), shown)
    for moved in told.moved[:shown]:
        states = f"{moved.before.value if moved.before else 'new'} → {moved.after.value if moved.after else 'gone'}"
        nodes = f" on {', '.join(moved.nodes)}" if moved.nodes else ""
        click.echo(f"  {instant_text(moved.at_ms)}  {moved.role or ''} {moved.instance} {states} ({moved.reason}){nodes}  {moved.place}")
    _more(len(told.moved), shown)
    for said in told.said[:shown]:
        click.echo(f"  {instant_text(said.at_ms)}  {said.instance} said {said.kind}  {said.place}")
    _more(len(told.said), shown)
    if told.commands:
        click.echo(f"  {told.ended}")


def _row(one: Heard) -> tuple[object, ...]:
    return (one.instance, one.role, one.node, one.samples, one.decode_tokens, one.prompt_tokens, _short(one.first), _short(one.last))


def _short(place: str) -> str:
    """`partition@offset`: the topic is the same for all."""
    return place.rpartition("/")[2]


def _more(there_are: int, shown: int) -> None:
    if there_are > shown:
        click.echo(f"  … and {there_are - shown} more (--all)")


def _why_not(recorded: Recorded, found: Found[Decision], wanted: Action, *, as_json: bool) -> None:
    decision = found.message
    here = whynot.situation(recorded, decision)
    reply = whynot.ask(here, wanted)
    if as_json:
        output.emit(
            {"decision": decision.id, "taken": reply.taken.value, "wanted": wanted.value, "lifted": reply.lifted,
             "together": reply.together, "demand": reply.demand}
        )  # fmt: skip
        return
    click.echo(decision_text.title(decision))
    if reply.taken is wanted:
        click.echo(f"it was {wanted.value}")
        return
    decision_text.stage_table(decision)
    for text in whynot.guard_text(here.window):
        click.echo(text)
    for text in reply.lifted:
        click.echo(f"it would have been {wanted.value} with {text}")
    if reply.together:
        click.echo(f"it would have been {wanted.value} only with all of: {'; '.join(reply.together)}")
    if reply.demand is not None:
        click.echo(f"it would have been {wanted.value} with {reply.demand}")
    if not (reply.lifted or reply.together or reply.demand):
        click.echo(f"neither another limit nor another demand in this window would have made it {wanted.value}")
