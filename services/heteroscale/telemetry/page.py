"""Prometheus text as it comes from engines: read line by line, so that one bad line costs that line and no other."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

Labels: TypeAlias = tuple[tuple[str, str], ...]
SHOWN_CHARACTERS = 80
BLANK_MIN = 9_223_372_036_854_775_000.0  # blank values are the last few below 2^63, which floats cannot tell apart


class Series(NamedTuple):
    """One line: a name, its labels in sorted order, a value (NaN where the page says so), the line it stood on (from 1)."""

    name: str
    labels: Labels
    value: float
    line: int

    def label(self, name: str) -> str | None:
        """The value of a label, or null."""
        return next((value for key, value in self.labels if key == name), None)


class Problem(NamedTuple):
    """A line, or a value, that was left out."""

    line: int
    text: str


class Page(NamedTuple):
    """What a page says. Of a line repeated with the same labels the last one counts."""

    series: dict[str, list[Series]]
    problems: list[Problem]


def parse(payload: bytes) -> Page:
    """Read a page of any bytes; what cannot be read is listed, never raised."""
    found: dict[tuple[str, Labels], Series] = {}
    problems: list[Problem] = []
    for number, raw in enumerate(payload.split(b"\n"), start=1):
        try:
            for series in _read(raw.decode().strip(), number):
                found[series.name, series.labels] = series
        except (ValueError, IndexError, KeyError) as error:
            problems.append(Problem(number, f"malformed line skipped: {_shown(raw)} ({error})"[:300]))
    by_name: dict[str, list[Series]] = {}
    for series in found.values():
        by_name.setdefault(series.name, []).append(series)
    return Page(by_name, problems)


def is_number(value: float) -> bool:
    """Whether it is a count or a size. -1 means `not enabled`, NaN and the numbers around 2^63 mean nothing."""
    return 0 <= value < BLANK_MIN


def _read(line: str, number: int) -> list[Series]:
    if not line or line.startswith("#"):
        return []
    return [
        Series(sample.name, tuple(sorted(sample.labels.items())), sample.value, number)
        for family in text_string_to_metric_families(line)
        for sample in family.samples
    ]


def _shown(raw: bytes) -> str:
    text = raw.decode(errors="replace").strip()
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")
