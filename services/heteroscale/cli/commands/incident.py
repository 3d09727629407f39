"""`heteroscale incident`: what was recorded around an incident, kept in one place, looked at, exported, made into a test."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec

from heteroscale.cli import bundles, decision_text, output
from heteroscale.cli.durations import DURATION, INSTANT
from heteroscale.cli.options import connection_of, connection_options, json_option
from heteroscale.contracts.decisions import Action
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import Duration, Instant, instant_text
from heteroscale.replay import archive, export, golden, redact, verdict
from heteroscale.replay.capture import Wanted
from heteroscale.replay.manifest import Manifest
from heteroscale.replay.recorded import Recorded

_BUNDLE = click.Path(path_type=Path)


@click.group()
def incident() -> None:
    """Capture, look at, export and keep incidents."""


@incident.command(
    epilog="""\b
Examples:
  heteroscale incident capture --around 2026-11-22T17:20Z --window 30m --service chat-70b -o inc-142/
  heteroscale incident capture --from 2026-11-22T17:00Z --to 2026-11-22T18:00Z -o inc-142.tar.zst
  heteroscale incident capture --around 2026-11-22T17:20Z --pseudonyms node --redact detail -o outside/""",
)
@click.option("--around", type=INSTANT, help="The instant in the middle.")
@click.option("--window", type=DURATION, help="How much around it.  [default: 30m]")
@click.option("--from", "since", type=INSTANT, help="Its beginning.")
@click.option("--to", "until", type=INSTANT, help="Its end.")
@click.option("--service", "-s", "services", multiple=True, help="Only this service, with its fleet; may repeat.")
@click.option("--redact", "fields", multiple=True, metavar="FIELD", help="Take this free-text field out; may repeat.")
@click.option("--pseudonyms", multiple=True, type=click.Choice(redact.KINDS), help="Rename these, consistently; may repeat.")
@click.option("-o", "--output", "target", required=True, type=_BUNDLE, help="A new directory, or NAME.tar.zst.")
@connection_options
@json_option
def capture(  # noqa: PLR0913, PLR0917 - one parameter an option
    around: Instant | None,
    window: Duration | None,
    since: Instant | None,
    until: Instant | None,
    services: tuple[str, ...],
    fields: tuple[str, ...],
    pseudonyms: tuple[str, ...],
    target: Path,
    *,
    as_json: bool,
) -> None:
    """Write what was recorded around an incident into a bundle.

    Reads by timestamp look-up and without a consumer group; the topics may be written meanwhile. What a replay needs from
    before the window (states, telemetry of one lookback, an hour of placements) is taken along.
    """
    redact.check_fields(fields)
    span = bundles.span_of(around, window, since, until)
    wanted = Wanted(connection_of().prefix, span, services, fields, pseudonyms)
    if target.name.endswith(archive.SUFFIX):
        if target.exists():
            raise Rejected("exists", "exists already; name another with -o", str(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="heteroscale-incident-") as own:
            made = bundles.capture_to(wanted, Path(own) / "bundle")
            archive.pack(Path(own) / "bundle", target)
    else:
        made = bundles.capture_to(wanted, target)
    if as_json:
        output.emit(made)
        return
    for text in _contents(made):
        click.echo(text)
    click.echo(f"next: heteroscale replay {target}")


@incident.command(epilog="\b\nExample:\n  heteroscale incident show inc-142/")
@click.argument("bundle", type=_BUNDLE)
@json_option
def show(bundle: Path, *, as_json: bool) -> None:
    """What a bundle holds, and the moves in it."""
    with archive.opened(bundle) as found:
        if as_json:
            output.emit(found.manifest)
            return
        for text in _contents(found.manifest):
            click.echo(text)
        recorded = Recorded(found)
        span = found.manifest.window
        moves = [
            one.message
            for of_service in recorded.decisions.values()
            for one in of_service
            if one.message.action is not Action.HOLD and span.from_ms <= one.message.at_ms <= span.to_ms
        ]
        click.echo(f"{len(moves)} {'move' if len(moves) == 1 else 'moves'}{':' if moves else ''}")
        for decision in sorted(moves, key=lambda one: (one.at_ms, one.service)):
            click.echo(f"  {decision_text.title(decision)}")


def _contents(made: Manifest) -> list[str]:
    """A bundle in a few lines."""
    told = [
        f"{', '.join(made.services)} from {instant_text(made.window.from_ms)} to {instant_text(made.window.to_ms)}, prefix {made.prefix}",
        *(f"  {name}: {verdict.grouped(part.records)} records" for name, part in made.topics.items()),
    ]
    for name, part in made.topics.items():
        for partition, one in part.partitions.items():
            if one.missing is not None:
                span = one.missing
                told.append(f"  missing: {name} partition {partition} from {instant_text(span.from_ms)} to {instant_text(span.to_ms)}")
    if made.redactions.fields or made.redactions.pseudonyms:
        told.append(f"  redacted: {', '.join([*made.redactions.fields, *(f'{kind} names' for kind in made.redactions.pseudonyms)])}")
    return told


@incident.command("export", epilog="\b\nExample:\n  heteroscale incident export inc-142/ --topic decisions.v1 --parquet decisions.parquet")
@click.argument("bundle", type=_BUNDLE)
@click.option("--topic", required=True, type=click.Choice([topic.value for topic in Topic]), help="Which topic.")
@click.option("--parquet", "target", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
def export_command(bundle: Path, topic: str, target: Path) -> None:
    """Write a recorded topic as Parquet, for notebooks: a row a record, nested fields as columns (needs heteroscale[parquet])."""
    with archive.opened(bundle) as found:
        rows = export.to_parquet(found, Topic(topic), target)
    click.echo(f"{verdict.grouped(rows)} rows in {target}")


@incident.command("to-test", epilog="\b\nExample:\n  heteroscale incident to-test inc-142/ --shrink -o tests/replay/bundles/inc-142")
@click.argument("bundle", type=_BUNDLE)
@click.option("--shrink", is_flag=True, help="Keep only the smallest part that still diverges in the same way.")
@click.option("-o", "--output", "target", required=True, type=_BUNDLE, help="A new directory for the bundle and its test.")
@json_option
def to_test(bundle: Path, target: Path, *, shrink: bool, as_json: bool) -> None:
    """Make a bundle into a golden test: the bundle, and a pytest module that expects of it what it gives now."""
    progress = bundles.Progress()
    try:
        with archive.opened(bundle) as found:
            made = golden.to_test(found, target, shrink=shrink, progress=progress)
    finally:
        progress.done()
    if as_json:
        output.emit(msgspec.to_builtins(made))
        return
    click.echo(f"{made.expected} with {verdict.grouped(made.records)} of {verdict.grouped(made.records_before)} records in {target}")
    click.echo(f"next: pytest {made.test}")
