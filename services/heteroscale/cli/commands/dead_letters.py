"""`heteroscale dead-letters list|show|retry`: records that could not be used."""

from __future__ import annotations

import base64

import click

from heteroscale.bus import dead_letters as letters
from heteroscale.bus.dead_letters import Letter
from heteroscale.cli import output
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import instant_text


@click.group(
    "dead-letters",
    epilog="""\b
Examples:
  heteroscale dead-letters list --code undecodable
  heteroscale dead-letters show 17
  heteroscale dead-letters retry 17 18""",
)
def dead_letters() -> None:
    """Records that could not be used: list, show, retry."""


@dead_letters.command(
    "list",
    epilog="""\b
Examples:
  heteroscale dead-letters list --topic telemetry.v1
  heteroscale dead-letters list --json""",
)
@click.option("--topic", metavar="TOPIC", help="Only from this topic, with or without the prefix.")
@click.option("--stage", metavar="STAGE", help="Only refused by this stage.")
@click.option("--code", metavar="CODE", help="Only with this code.")
@json_option
@connection_options
def list_(*, topic: str | None, stage: str | None, code: str | None, as_json: bool) -> None:
    """All that are still held, oldest first. The number is the offset that show and retry take."""
    found = run_async(_read(topic, stage, code))
    if as_json:
        for letter in found:
            output.emit({"number": letter.offset} | _document(letter))
        return
    rows = [
        (letter.offset, instant_text(one.at_ms), f"{one.topic}-{one.partition}@{one.offset}", one.key, one.stage, one.code)
        for letter in found
        for one in (letter.dead_letter,)
    ]
    if rows:
        output.table(("number", "at", "record", "key", "stage", "code"), rows)
    else:
        output.note("none")


@dead_letters.command(
    epilog="""\b
Example:
  heteroscale dead-letters show 17""",
)
@click.argument("number", type=int)
@json_option
@connection_options
def show(number: int, *, as_json: bool) -> None:
    """One dead letter, with its payload."""
    letter = run_async(_one(number))
    if as_json:
        output.emit({"number": letter.offset} | _document(letter))
        return
    one = letter.dead_letter
    click.echo(f"{one.topic}-{one.partition}@{one.offset}, key {one.key}, at {instant_text(one.at_ms)}")
    click.echo(f"{one.stage} refused it: {one.code}: {one.message}")
    click.echo(one.payload.decode(errors="backslashreplace"))


@dead_letters.command(
    epilog="""\b
Example:
  heteroscale dead-letters retry 17 18""",
)
@click.argument("numbers", metavar="NUMBER...", nargs=-1, type=int, required=True)
@json_option
@connection_options
def retry(numbers: tuple[int, ...], *, as_json: bool) -> None:
    """Put the payload back where it came from: same topic, partition, key and time. The dead letter itself stays."""
    for number, at, offset in run_async(_retry(numbers)):
        if as_json:
            output.emit({"number": number, "record": at, "offset": offset})
        else:
            click.echo(f"{number}: again at {at}@{offset}")


async def _read(topic: str | None, stage: str | None, code: str | None) -> list[Letter]:
    connection = connection_of()
    async with connection.log() as log:
        await LogView(log, connection.prefix).partitions(Topic.DEAD_LETTERS)
        return [letter async for letter in letters.read(log, connection.prefix, topic=topic, stage=stage, code=code)]


async def _one(number: int) -> Letter:
    connection = connection_of()
    async with connection.log() as log:
        await LogView(log, connection.prefix).partitions(Topic.DEAD_LETTERS)
        letter = await letters.get(log, connection.prefix, number)
    if letter is None:
        raise Rejected("no_dead_letter", f"no dead letter {number}; heteroscale dead-letters list shows what is held")
    return letter


async def _retry(numbers: tuple[int, ...]) -> list[tuple[int, str, int]]:
    found = [await _one(number) for number in numbers]
    connection = connection_of()
    async with connection.log() as log:
        places = [await letters.retry(log, letter) for letter in found]
    return [(letter.offset, str(place.at), place.offset) for letter, place in zip(found, places, strict=True)]


def _document(letter: Letter) -> dict[str, object]:
    one = letter.dead_letter
    return {
        "topic": one.topic,
        "partition": one.partition,
        "offset": one.offset,
        "key": one.key,
        "at_ms": one.at_ms,
        "stage": one.stage,
        "code": one.code,
        "message": one.message,
        "payload": base64.b64encode(one.payload).decode(),
    }
