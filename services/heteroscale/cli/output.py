"""What commands print: JSON lines, tables in plain text, notes on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec
import orjson

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected


def emit(document: msgspec.Struct | object) -> None:
    """One JSON document on one line of stdout: a message in its canonical bytes, anything else with sorted keys."""
    payload = codec.encode(document) if isinstance(document, msgspec.Struct) else orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    click.echo(payload)


def note(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


def problem(error: Rejected) -> None:
    """A refused line that does not end the command: its place and code, on stderr."""
    place = f"{error.place}: " if error.place else ""
    click.echo(f"{place}{error.code}: {error.message}", err=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Left-aligned columns as wide as their widest cell; numbers right-aligned; null prints as `-`."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [bool(cells) and all(_is_number(row[at]) for row in cells) for at in range(len(columns))]
    widths = [max([len(title), *(len(row[at]) for row in cells)]) for at, title in enumerate(columns)]
    for row in [[title.upper() for title in columns], *cells]:
        padded = (text.rjust(width) if right else text.ljust(width) for text, width, right in zip(row, widths, numeric, strict=True))
        click.echo("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.lstrip("+-").replace(".", "", 1).isdigit()
