"""Sums of arrays are math.fsum's, to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heteroscale.signals.sums import exact_sum

_FINITE = st.floats(min_value=0.0, max_value=2.0**60, allow_subnormal=True)


@given(st.lists(_FINITE, max_size=50))
def test_sum_of_anything_finite_is_rounded_once(figures: list[float]) -> None:
    """From nothing, over subnormal numbers, to 2^60."""
    assert math.fsum(figures) == exact_sum(np.array(figures))


@pytest.mark.parametrize("count", [1, 3, 1_000, 4_095, 4_096, 65_537])
@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 40.0])
def test_many_figures(count: int, spread: float) -> None:
    """Alike or of very unlike sizes, with signs: the same bits, in any order."""
    generator = np.random.default_rng(count)
    figures = generator.normal(size=count) * np.exp(spread * generator.normal(size=count))
    assert math.fsum(figures.tolist()) == exact_sum(figures) == exact_sum(figures[::-1])
