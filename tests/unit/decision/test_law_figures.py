"""Figures in the details of decisions are for people to read."""

from __future__ import annotations

import pytest

from heteroscale.decision.law.figures import plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,371,070", 1_371_070.4),
        ("10,000,000", 1e7),
        ("1,000", 1_000.0),
        ("-2,500", -2_500.0),
        ("412.5", 412.5),
        ("0.85", 0.85),
        ("0", 0.0),
    ],
)
def test_large_figures_have_separators_and_no_exponent(text: str, value: float) -> None:
    """From a thousand on whole numbers with separators, below it up to six digits."""
    assert text == plain(value)
