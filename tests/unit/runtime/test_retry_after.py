"""Retry-After, as servers write it."""

from __future__ import annotations

import pytest

from heteroscale.runtime import retry_after


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("2", 2.0),
        ("0", 0.0),
        ("9" * 400, retry_after.LIMIT_S),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_seconds_are_heeded_within_a_limit_and_nothing_else_is(said: str, expected: float | None) -> None:
    """A server cannot send us away for good, nor make us come back at once by nonsense."""
    assert expected == retry_after.wait_s({"Retry-After": said})
    assert retry_after.wait_s({}) is None
