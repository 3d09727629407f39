"""Hostile pages: a bad line costs that line and nothing else."""

from __future__ import annotations

import math

import pytest

from heteroscale.telemetry import page


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b'a{b="c} 1',
        b'a{b="c"}',
        b'a{b="c"} x',
        b"a{b=c} 1",
        b'a{b="1",b="2"} 3',
        b"a 1_000",
        b"1a 2",
        b"}{",
        b'{b="c"} 1',
        b"\xff\xfe\x00 1",
        b"<html><body>502 Bad Gateway</body></html>",
        b'{"error": "not found"}',
        b"\x00" * 50,
        b"a" * 100_000,
    ],
)
def test_a_malformed_line_is_named_and_skipped(line: bytes) -> None:
    """Its number is told; its neighbours are read."""
    parsed = page.parse(b"before 1\n" + line + b"\nafter 2\n")
    assert [2] == [problem.line for problem in parsed.problems]
    assert {"before", "after"} == set(parsed.series)


def test_problems_are_short() -> None:
    """A line of a megabyte does not fill the screen."""
    (problem,) = page.parse(b"x" * 1_000_000).problems
    assert len(problem.text) <= 300


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "# HELP a b\n# TYPE a counter\n# EOF\n", "#", "\r\n", "  # spaced\n"],
)
def test_comments_and_blanks_are_nothing(text: str) -> None:
    """Neither series nor problems."""
    assert page.Page({}, []) == page.parse(text.encode())


def test_windows_line_ends_time_stamps_and_exemplars_are_read() -> None:
    """What other exporters append does not reach the value."""
    parsed = page.parse(b'a{b="c"} 1\r\nd 2 1732000000000\r\ne_bucket{le="1"} 3 # {trace_id="x"} 0.5\r\n')
    assert ([1.0], [2.0], [3.0]) == tuple([series.value for series in parsed.series[name]] for name in ("a", "d", "e_bucket"))
    assert [] == parsed.problems


def test_escapes_in_labels_are_undone() -> None:
    """Quotes, backslashes and line ends inside label values."""
    parsed = page.parse(rb'a{b="say \"x\"\\ \n{},"} 1')
    assert 'say "x"\\ \n{},' == parsed.series["a"][0].label("b")


def test_of_a_repeated_line_the_last_one_counts() -> None:
    """The same name and labels twice is one series."""
    parsed = page.parse(b'a{x="1",y="2"} 1\na{y="2",x="1"} 5\n')
    assert [(5.0, 2)] == [(series.value, series.line) for series in parsed.series["a"]]


def test_nan_is_kept_apart_from_numbers() -> None:
    """It is read, and judged where it is used."""
    value = page.parse(b"a NaN").series["a"][0].value
    assert math.isnan(value)
    assert [False] * 6 == [page.is_number(bad) for bad in (value, math.inf, -math.inf, -1.0, 2.0**63, 1e308)]
    assert page.is_number(0.0)
