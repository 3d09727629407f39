"""`heteroscale topics create|describe|tail`: the topics as they are laid out, and what flows through them."""

from __future__ import annotations

import click

from heteroscale.bus import catalogue
from heteroscale.bus.log import TopicLayout, TopicPartition
from heteroscale.cli import completing, output
from heteroscale.cli.durations import INSTANT
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.cli.tailing import Tail, follow
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import CATALOGUE, Topic
from heteroscale.contracts.units import Instant, instant_text
from heteroscale.decision.specs.problems import did_you_mean

SHORT_NAMES = {topic.value.removesuffix(".v1"): topic for topic in Topic}


@click.group(
    epilog="""\b
Examples:
  heteroscale topics create
  heteroscale topics describe
  heteroscale topics tail decisions --service chat-70b --follow""",
)
def topics() -> None:
    """Create, describe and follow the topics."""


@topics.command(
    epilog="""\b
Examples:
  heteroscale topics create
  heteroscale --prefix staging topics create""",
)
@click.option("--keep-forever", is_flag=True, help="Never delete by age (simulated time).")
@json_option
@connection_options
def create(*, keep_forever: bool, as_json: bool) -> None:
    """Create the topics that are missing; check the partition counts of those that exist."""
    created = run_async(_create(keep_forever=keep_forever))
    if as_json:
        output.emit({"created": created, "existing": len(CATALOGUE) - len(created)})
    else:
        for name in created:
            click.echo(f"created {name}")
        click.echo(f"{len(created)} created, {len(CATALOGUE) - len(created)} were there")


async def _create(*, keep_forever: bool) -> list[str]:
    connection = connection_of()
    async with connection.log() as log:
        return await catalogue.create(log, connection.prefix, keep_forever=keep_forever)


@topics.command(
    epilog="""\b
Examples:
  heteroscale topics describe
  heteroscale topics describe decisions --json""",
)
@click.argument("names", metavar="[TOPIC]...", nargs=-1, shell_complete=completing.topics)
@json_option
@connection_options
def describe(names: tuple[str, ...], *, as_json: bool) -> None:
    """Partitions, configuration, records held and the newest one, per topic."""
    chosen = [topic_named(name) for name in names] or list(Topic)
    described = run_async(_describe(chosen))
    if as_json:
        for document in described:
            output.emit(document)
        return
    columns = ("topic", "partitions", "cleanup", "retention", "records", "newest")
    output.table(columns, [_row(document) for document in described])
    missing = [document["topic"] for document in described if not document["exists"]]
    if missing:
        output.note(f"{len(missing)} are missing; heteroscale --prefix {connection_of().prefix} topics create")


async def _describe(chosen: list[Topic]) -> list[dict[str, object]]:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        layouts = await log.describe_topics([view.name(topic) for topic in chosen])
        return [await _document(view, topic, layouts.get(view.name(topic))) for topic in chosen]


async def _document(view: LogView, topic: Topic, layout: TopicLayout | None) -> dict[str, object]:
    spec = CATALOGUE[topic]
    document: dict[str, object] = {"topic": view.name(topic), "exists": layout is not None, "key": spec.key}
    if layout is None:
        return document | {"partitions": spec.partitions, "config": spec.config(), "records": 0, "newest_ms": None}
    places = [TopicPartition(layout.name, partition) for partition in range(layout.partitions)]
    begins, ends = await view.log.begin_offsets(places), await view.log.end_offsets(places)
    stamps = [record.timestamp_ms for at in places if (record := await view.last(at, lambda _record: True)) is not None]
    return document | {
        "partitions": layout.partitions,
        "config": dict(sorted(layout.config.items())),
        "records": sum(ends[at] - begins[at] for at in places),
        "offsets": {str(at.partition): [begins[at], ends[at]] for at in places},
        "newest_ms": max(stamps, default=None),
    }


def _row(document: dict[str, object]) -> tuple[object, ...]:
    config = document["config"]
    newest = document["newest_ms"]
    settings = config if isinstance(config, dict) else {}
    return (
        document["topic"],
        document["partitions"],
        settings.get("cleanup.policy"),
        _retention(settings.get("retention.ms")),
        document["records"] if document["exists"] else "missing",
        instant_text(newest) if isinstance(newest, int) else None,
    )


def _retention(text: str | None) -> str | None:
    if text is None:
        return None
    days = int(text) / 86_400_000
    return "forever" if days < 0 else f"{days:g}d"


@topics.command(
    epilog="""\b
Examples:
  heteroscale topics tail decisions -n 5
  heteroscale topics tail signals --service chat-70b --follow
  heteroscale topics tail commands --since 2026-11-22T17:20Z --json""",
)
@click.argument("topic", shell_complete=completing.topics)
@click.option(
    "--service", "--key", "key", metavar="KEY", help="Only records of this key (a service, a fleet, FLEET/NODE), or about this service."
)
@click.option("-n", "--last", type=click.IntRange(min=0), default=10, show_default=True, help="How many records to begin with.")
@click.option("--since", type=INSTANT, metavar="INSTANT", help="Begin at this time instead.")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until interrupted.")
@json_option
@connection_options
def tail(topic: str, *, key: str | None, last: int, since: Instant | None, following: bool, as_json: bool) -> None:
    """The newest records of a topic, one readable line each; every field with --json."""
    wanted = Tail(topic=topic_named(topic), key=key, last=last, since_ms=None if since is None else since.ms, following=following)
    run_async(follow(wanted, as_json=as_json))


def topic_named(name: str) -> Topic:
    """A topic by its name, with or without prefix and version. Raises Rejected (`no_topic`) that names the nearest."""
    for short, topic in SHORT_NAMES.items():
        if name in {short, topic.value} or name.endswith(f".{topic.value}"):
            return topic
    raise Rejected("no_topic", f"no topic {name!r}; {did_you_mean(name, SHORT_NAMES)}")
