"""Prometheus text as it comes from engines: read line by line, so that one bad line costs that line and no other."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

Labels: TypeAlias = tuple[tuple[str, str], ...]
SHOWN_CHARACTERS = 80
MEMO_LINES_MAX = 20_000
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


class Memo:
    """What the lines of one engine's pages say beside their values: names and labels repeat from scrape to scrape."""

    def __init__(self, lines_max: int = MEMO_LINES_MAX) -> None:
        self._known: dict[bytes, tuple[str, Labels]] = {}
        self._lines_max = lines_max

    def recall(self, raw: bytes) -> tuple[str, Labels, float] | None:
        """A line seen before with another value; null for any other, and for one that is more than `name{labels} value`."""
        key, value = _halves(raw)  # of a line with an exemplar these are other halves, so it is never learned
        known = self._known.get(key)
        if known is None or b"_" in value:
            return None
        try:
            return (*known, float(value))
        except ValueError:
            return None

    def learn(self, raw: bytes, series: Series) -> None:
        """Remember a line that was read, unless it may have an exemplar."""
        if b"#" in raw:
            return
        if len(self._known) >= self._lines_max:
            self._known.clear()
        self._known[_halves(raw)[0]] = (series.name, series.labels)


def parse(payload: bytes, memo: Memo | None = None) -> Page:
    """Read a page of any bytes; what cannot be read is listed, never raised. `memo` makes the next page of its engine cheap."""
    found: dict[tuple[str, Labels], Series] = {}
    problems: list[Problem] = []
    for number, raw in enumerate(payload.split(b"\n"), start=1):
        if not raw or raw.startswith(b"#"):
            continue
        known = None if memo is None else memo.recall(raw)
        if known is not None:
            name, labels, value = known
            found[name, labels] = Series(name, labels, value, number)
            continue
        try:
            for series in _read(raw.decode().strip(), number):
                found[series.name, series.labels] = series
                if memo is not None:
                    memo.learn(raw, series)
        except (ValueError, IndexError, KeyError) as error:
            problems.append(Problem(number, f"malformed line skipped: {_shown(raw)} ({error})"[:300]))
    by_name: dict[str, list[Series]] = {}
    for series in found.values():
        by_name.setdefault(series.name, []).append(series)
    return Page(by_name, problems)


def is_number(value: float) -> bool:
    """Whether it is a count or a size. -1 means `not enabled`, NaN and the numbers around 2^63 mean nothing."""
    return 0 <= value < BLANK_MIN


def _halves(raw: bytes) -> tuple[bytes, bytes]:
    """A line's name with labels, and what follows."""
    head, brace, tail = raw.rpartition(b"}")
    if brace:
        return head, tail
    name, _, value = raw.strip().partition(b" ")
    return name, value


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
