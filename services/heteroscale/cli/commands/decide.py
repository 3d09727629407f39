"""`heteroscale decide`: the law over files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import click
import msgspec

from heteroscale.cli import completing, decision_text, files, output
from heteroscale.cli.options import json_option
from heteroscale.cli.spec_files import read_specs
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic, topic_of
from heteroscale.decision import controller
from heteroscale.decision.controller import ServiceState, Source, Tombstone
from heteroscale.decision.law.setting import Setting
from heteroscale.decision.specs.parsing import parse_spec

Message = SignalWindow | Placement | ServiceSpec | Tombstone
KINDS: dict[Topic, type[SignalWindow | Placement | ServiceSpec]] = {
    Topic.SIGNALS: SignalWindow,
    Topic.PLACEMENTS: Placement,
    Topic.SPECS: ServiceSpec,
}
EXAMPLE = """\b
Examples:
  heteroscale decide chat.yaml windows.jsonl --json
  heteroscale signals compute telemetry.jsonl --spec chat.yaml --json | heteroscale decide chat.yaml -

\b
A line is a SignalWindow, or {"topic": "signals.v1" | "placements.v1" | "specs.v1", "value": …}; other topics are passed over.
With "partition" and "offset" beside them, decisions tell their `inputs` as they do on the log."""


class Event(NamedTuple):
    """One line: what happened, and where it lay on the log, if the line says so."""

    message: Message
    source: Source | None = None


@click.command(epilog=EXAMPLE)
@click.argument("spec", metavar="SPEC.yaml", shell_complete=completing.files)
@click.argument("events", metavar="EVENTS.jsonl", shell_complete=completing.files)
@click.option("--cold-start", is_flag=True, help="Take the first window as a cold start: adopt what runs, hold for one full window.")
@json_option
def decide(spec: str, events: str, *, cold_start: bool, as_json: bool) -> None:
    """Decide windows from a file, in the file's order: one Decision a window.

    Without placements among the events, what the first window counts as serving, loading and silent is taken as running, and
    each command is taken as carried out as the next windows show. Windows of services that SPEC does not name get no decision.
    """
    specs = read_specs([spec])
    read = [event for line in files.read_lines(events) if (event := read_event(line)) is not None]
    for decision in run(specs, read, cold_start=cold_start):
        if as_json:
            output.emit(decision)
        else:
            click.echo(decision_text.title(decision))
            decision_text.stage_table(decision)
            click.echo("")


def run(specs: Iterable[ServiceSpec], events: Sequence[Event], *, cold_start: bool) -> Iterable[Decision]:
    """Decisions in the order of the events. A service is placed if any of its events is a Placement."""
    states = {spec.service: ServiceState(spec.service, spec) for spec in specs}
    placed = {event.message.service for event in events if isinstance(event.message, Placement)}
    unknown: set[str] = set()
    for message, source in events:
        state = states.get(message.service)
        if state is None:
            if isinstance(message, ServiceSpec):
                state = ServiceState(message.service)
            else:
                unknown.add(message.service)
                continue
        if source is not None:
            state = msgspec.structs.replace(state, inputs={**state.inputs, source.at: source.next_offset})
        setting = Setting(placements=message.service in placed, cold_start=cold_start, offline=True)
        states[message.service], effects = controller.step(state, message, setting=setting)
        if effects.decision is not None:
            yield effects.decision
    for service in sorted(unknown):
        output.note(f"events of {service}, which has no spec here, were passed over")


def read_event(line: files.Line) -> Event | None:
    """One line as an event; null for a topic that decisions do not read. Raises Rejected with the line's place."""
    try:
        document = codec.decode(dict[str, Any], line.payload)
        if "topic" not in document:
            return Event(codec.convert(SignalWindow, document))
        topic = topic_of(str(document["topic"]))
        if topic is None:
            raise Rejected("unknown_topic", f"there is no topic {document['topic']!r}; write signals.v1, placements.v1 or specs.v1")  # noqa: TRY301 - one place adds the line
        if topic not in KINDS:
            return None
        message = _message(topic, document, line.place)
        return None if message is None else Event(message, _source(document))
    except Rejected as error:
        raise Rejected(error.code, error.message, error.place or line.place) from error


def _message(topic: Topic, document: dict[str, Any], place: str) -> Message | None:
    if document.get("value") is None:
        return _without_value(topic, document)
    if topic is Topic.SPECS:
        return parse_spec(document["value"], place)
    return codec.convert(KINDS[topic], document["value"])


def _source(document: dict[str, Any]) -> Source | None:
    partition, offset = document.get("partition"), document.get("offset")
    if isinstance(partition, int) and isinstance(offset, int):
        return Source(f"{document['topic']}-{partition}", offset + 1)
    return None


def _without_value(topic: Topic, document: dict[str, Any]) -> Tombstone | None:
    """A tombstone of specs.v1 lets go of the service that its key names; elsewhere there is nothing to read."""
    if topic is Topic.SPECS and isinstance(document.get("key"), str):
        return Tombstone(document["key"])
    if topic is Topic.PLACEMENTS:
        return None
    raise Rejected("empty", f'{topic.value} without a value; write {{"topic": "{topic.value}", "value": {{…}}}}')
