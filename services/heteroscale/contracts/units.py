"""Durations, fractions and instants as people write them ("60s", "5%", "2026-12-01T00:00Z"), exact as integers inside.

Messages for machines carry plain numbers (`*_ms`, fractions 0..1). Only the spec, which people write, uses these types,
and it travels in the form people wrote.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, Self

MS_PER_UNIT: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Duration:
    """A span of time in whole milliseconds."""

    __slots__ = ("ms",)

    def __init__(self, ms: int) -> None:
        self.ms = ms

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `90s`, `1.5s`, `10m`, `7d`. Raises ValueError that says what to write."""
        found = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"{text!r} is not a duration; write a number and a unit, such as 500ms, 60s, 10m, 1h or 7d")
        exact = float(found[1]) * MS_PER_UNIT[found[2]]
        ms = round(exact)
        if abs(ms - exact) > 1e-6:
            raise ValueError(f"{text!r} is finer than a millisecond; write {ms}ms")
        return cls(ms)

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s"):
            size = MS_PER_UNIT[unit]
            if self.ms and self.ms % size == 0:
                return f"{self.ms // size}{unit}"
        return f"{self.ms}ms" if self.ms else "0s"

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and self.ms == other.ms

    def __hash__(self) -> int:
        return self.ms


class Percent:
    """A fraction that people write in percent; `fraction` is 0.05 for `5%`."""

    __slots__ = ("fraction",)

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `5%` or `12.5%`. Raises ValueError that says what to write."""
        found = _PERCENT.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            hint = f"{text:g}%" if isinstance(text, int | float) and not isinstance(text, bool) and text > 1 else "10%"
            raise ValueError(f"{text!r} is not a percentage; write a number and a percent sign, such as {hint}")
        return cls(round(float(found[1]) / 100, 12))

    def __str__(self) -> str:
        return f"{round(self.fraction * 100, 10):g}%"

    def __repr__(self) -> str:
        return f"Percent({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Percent) and self.fraction == other.fraction

    def __hash__(self) -> int:
        return int(self.fraction * 1e9)


class Instant:
    """A point in time, integer Unix milliseconds."""

    __slots__ = ("ms",)

    def __init__(self, ms: int) -> None:
        self.ms = ms

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read ISO 8601 with a zone, with or without seconds. Raises ValueError that says what to write."""
        if isinstance(text, datetime):  # YAML reads an unquoted instant by itself
            return cls(millis(text if text.tzinfo else text.replace(tzinfo=UTC)))
        try:
            at = datetime.fromisoformat(text) if isinstance(text, str) else None
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            raise ValueError(f"{text!r} is not an instant with a zone; write it such as 2026-12-01T00:00Z")
        return cls(millis(at))

    def __str__(self) -> str:
        return instant_text(self.ms)

    def __repr__(self) -> str:
        return f"Instant({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instant) and self.ms == other.ms

    def __hash__(self) -> int:
        return self.ms


def millis(at: datetime) -> int:
    """Unix milliseconds of an aware datetime, exact (no float)."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def instant_text(ms: int) -> str:
    """ISO 8601 in UTC, seconds and milliseconds only where they are not zero; plain milliseconds beyond the calendar's years."""
    try:
        at = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return f"{ms}ms"
    if ms % 1_000:
        return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1_000:03d}Z"
    return at.strftime("%Y-%m-%dT%H:%M:%SZ" if ms % 60_000 else "%Y-%m-%dT%H:%MZ")
