"""Durations, percentages and instants: what people may write, and what they are told otherwise."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from heteroscale.contracts.units import Duration, Instant, Percent, instant_text, millis


@pytest.mark.parametrize(
    ("text", "ms"),
    [("500ms", 500), ("60s", 60_000), ("1.5s", 1_500), ("10m", 600_000), ("1h", 3_600_000), ("7d", 604_800_000), (" 5s ", 5_000)],
)
def test_durations_are_exact_milliseconds(text: str, ms: int) -> None:
    """A duration is a whole number of milliseconds."""
    assert ms == Duration.parse(text).ms


@pytest.mark.parametrize("value", ["", "5", "5 s", "-5s", "5sec", "1e3s", 5, None, "5S"])
def test_other_durations_are_refused_with_an_example(value: object) -> None:
    """The message shows the value and a good form."""
    with pytest.raises(ValueError, match="such as 500ms") as caught:
        Duration.parse(value)
    assert repr(value) in str(caught.value)


def test_a_duration_finer_than_a_millisecond_is_refused() -> None:
    """Rounding silently would change what was asked."""
    with pytest.raises(ValueError, match="write 0ms"):
        Duration.parse("0.4ms")


@pytest.mark.parametrize(("ms", "text"), [(0, "0s"), (1, "1ms"), (1_500, "1500ms"), (90_000, "90s"), (600_000, "10m"), (86_400_000, "1d")])
def test_durations_print_in_their_largest_whole_unit(ms: int, text: str) -> None:
    """What is printed reads back as the same duration."""
    assert text == str(Duration(ms))
    assert Duration(ms) == Duration.parse(text)


@pytest.mark.parametrize(("text", "fraction"), [("5%", 0.05), ("12.5%", 0.125), ("0%", 0.0), ("100%", 1.0)])
def test_percentages_are_fractions(text: str, fraction: float) -> None:
    """5% is 0.05, and prints as it was written."""
    assert fraction == Percent.parse(text).fraction
    assert text == str(Percent.parse(text))


@pytest.mark.parametrize(("value", "hint"), [(15, "15%"), ("0.15", "10%"), (True, "10%"), ("-5%", "10%")])
def test_other_percentages_are_refused_with_a_hint(value: object, hint: str) -> None:
    """A bare number above 1 is most likely meant in percent."""
    with pytest.raises(ValueError, match=f"such as {hint}"):
        Percent.parse(value)


@pytest.mark.parametrize(
    ("text", "ms"),
    [("1970-01-01T00:00Z", 0), ("2026-12-01T00:00Z", 1_796_083_200_000), ("2026-12-01T08:00:01+08:00", 1_796_083_201_000)],
)
def test_instants_are_unix_milliseconds(text: str, ms: int) -> None:
    """With or without seconds, in any zone."""
    assert ms == Instant.parse(text).ms


@pytest.mark.parametrize("value", ["2026-12-01T00:00", "tomorrow", 1_796_083_200, None])
def test_an_instant_without_a_zone_is_refused(value: object) -> None:
    """A local time would depend on the machine."""
    with pytest.raises(ValueError, match="with a zone"):
        Instant.parse(value)


@pytest.mark.parametrize("ms", [0, 60_000, 1_796_083_201_000, 1_796_083_201_007])
def test_instant_text_reads_back(ms: int) -> None:
    """Seconds and milliseconds appear only where they are not zero, and nothing is lost."""
    assert ms == Instant.parse(instant_text(ms)).ms


def test_millis_is_exact_far_from_now() -> None:
    """No float is involved: the last millisecond of the year 9999 survives."""
    assert 253_402_300_799_999 == millis(datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC))
