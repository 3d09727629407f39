"""`heteroscale decisions` and `heteroscale why`: what was decided, stage by stage, and what comes next."""

from __future__ import annotations

import click

from heteroscale.bus import scan
from heteroscale.cli import decision_text, output
from heteroscale.cli.field_diff import Change, differences
from heteroscale.cli.log_view import LogView, decoded
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.contracts import codec
from heteroscale.contracts.decision_state import DecisionState, LawState
from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.decision import why as reasons

POLL_MS = 500


@click.group()
def decisions() -> None:
    """Follow decisions, or show one stage by stage."""


@decisions.command(epilog="\b\nExample:\n  heteroscale decisions tail --service chat --moves")
@click.option("--service", "-s", default=None, help="Only this service.")
@click.option("--moves", is_flag=True, help="Leave out holds.")
@click.option("--last", "-n", default=10, show_default=True, help="How many of the past to begin with.")
@click.option("--follow/--no-follow", "-f", default=True, show_default=True, help="Go on with new ones until Ctrl-C.")
@connection_options
@json_option
def tail(service: str | None, last: int, *, moves: bool, follow: bool, as_json: bool) -> None:
    """Print decisions, one a line, as they are made."""
    run_async(_tail(service, last, moves=moves, follow=follow, as_json=as_json))


async def _tail(service: str | None, last: int, *, moves: bool, follow: bool, as_json: bool) -> None:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        places = [await view.home(Topic.DECISIONS, service)] if service else await view.partitions(Topic.DECISIONS)
        ends = await log.end_offsets(places)
        begins = await log.begin_offsets(places)
        lookback = last * (20 if moves or len(places) == 1 else 4)
        seen: list[Decision] = []
        async for batch in scan.to_end(log, places, {at: max(begins[at], ends[at] - lookback) for at in places}):
            seen.extend(found for record in batch if (found := decoded(Decision, record)) is not None)
        wanted = [found for found in seen if _is_wanted(found, service, moves=moves)]
        for found in sorted(wanted, key=lambda decision: (decision.at_ms, decision.service))[-last:] if last else []:
            _print(found, as_json=as_json)
        if not follow:
            return
        reader = log.reader(ends)
        try:
            while True:
                for record in await reader.poll(timeout_ms=POLL_MS):
                    decision = decoded(Decision, record)
                    if decision is not None and _is_wanted(decision, service, moves=moves):
                        _print(decision, as_json=as_json)
        finally:
            await reader.close()


def _is_wanted(decision: Decision, service: str | None, *, moves: bool) -> bool:
    return service in {None, decision.service} and not (moves and decision.action is Action.HOLD)


def _print(decision: Decision, *, as_json: bool) -> None:
    if as_json:
        output.emit(decision)
    else:
        click.echo(decision_text.title(decision))


@decisions.command(epilog="\b\nExample:\n  heteroscale decisions show 4a936158ef224ef5")
@click.argument("decision_id", metavar="ID")
@connection_options
@json_option
def show(decision_id: str, *, as_json: bool) -> None:
    """One decision: each stage's value before and after, its reason, the inputs read, what changed in the state.

    ID may be shortened.
    """
    found, changes = run_async(_show(decision_id))
    if as_json:
        output.emit(codec.to_document(found) | {"state_changes": None if changes is None else [change.document() for change in changes]})
    else:
        decision_text.whole(found)
        decision_text.state_changes(changes)


async def _show(decision_id: str) -> tuple[Decision, list[Change] | None]:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        found = await _find(view, decision_id)
        return found, await _state_changes(view, found)


async def _state_changes(view: LogView, decision: Decision) -> list[Change] | None:
    """What the decision changed in the law's state; null once decision-state.v1 has been compacted past it."""
    key, before = decision.service.encode(), LawState()
    for record in await view.records(Topic.DECISION_STATE, [await view.home(Topic.DECISION_STATE, decision.service)]):
        state = decoded(DecisionState, record) if record.key == key else None
        if state is None or state.decision is None:
            continue
        if state.decision.id == decision.id:
            follows = state.law.counters.decisions == before.counters.decisions + 1
            return differences(codec.to_document(before), codec.to_document(state.law)) if follows else None
        before = state.law
    return None


async def _find(view: LogView, decision_id: str) -> Decision:
    """Raises Rejected (`no_decision`, `ambiguous`)."""
    found: dict[str, Decision] = {}
    async for batch in scan.to_end(view.log, await view.partitions(Topic.DECISIONS)):
        for record in batch:
            if record.value is None or decision_id.encode() not in record.value:
                continue
            decision = decoded(Decision, record)
            if decision is not None and decision.id.startswith(decision_id):
                found.setdefault(decision.id, decision)
        if decision_id in found:
            break
    if not found:
        raise Rejected("no_decision", "there is none with this id; heteroscale decisions tail lists the newest", decision_id)
    if len(found) > 1:
        raise Rejected("ambiguous", f"{len(found)} decisions begin so: {', '.join(sorted(found))}", decision_id)
    return next(iter(found.values()))


@click.command(epilog="\b\nExample:\n  heteroscale why chat")
@click.argument("service")
@connection_options
@json_option
def why(service: str, *, as_json: bool) -> None:
    """Say why a service last moved or held, and what would change it and when."""
    run_async(_why(service, as_json=as_json))


async def _why(service: str, *, as_json: bool) -> None:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        specs = await view.newest_each(ServiceSpec, Topic.SPECS)
        if service not in specs:
            raise Rejected("unknown_service", f"has no spec; there are {', '.join(sorted(specs)) or 'none'}", service)
        record = await view.newest(DecisionState, Topic.DECISION_STATE, service)
    text = reasons.undecided(specs[service]) if record is None else reasons.explain(specs[service], record)
    if as_json:
        output.emit(
            {"service": service, "decision": None if record is None or record.decision is None else record.decision.id, "why": text}
        )
    else:
        click.echo(text)
