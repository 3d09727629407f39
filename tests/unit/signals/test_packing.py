"""Numbers come out of Python objects as they went in, whichever way they take."""

from __future__ import annotations

import numpy as np
import pytest

from heteroscale.signals.packing import FLOATS, WHOLE, pack_columns, pack_lists

LENGTHS = [1, 15, 16, 700]  # the packed list's head changes its size at 16, and at 65536


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("absent", ["none", "all", "some", "first"])
def test_columns_are_what_a_plain_loop_gives(count: int, absent: str) -> None:
    """Floats of any size, with nulls as NaN: none, a whole column of them, here and there, at the beginning."""
    columns: list[list[float | None]] = [[i * 0.37 + 1e15 * k for i in range(count)] for k in range(4)]
    if absent == "all":
        columns[2] = [None] * count
    if absent == "some":
        columns[1][count // 2] = None
    if absent == "first":
        columns[0][0] = None
    packed = np.zeros((4, count))
    pack_columns(columns, packed, FLOATS)
    np.testing.assert_array_equal(np.array(columns, dtype=np.float64), packed)


@pytest.mark.parametrize("instant", [0, 127, 128, 65_535, 2**32 - 1, 2**32, 1_732_000_000_000, 2**53])
@pytest.mark.parametrize("started", [None, 5, 1_732_000_000_000])
def test_whole_numbers_of_any_size(instant: int, started: int | None) -> None:
    """Small integers are written shorter, and mixtures of them and of nulls have no stride: the figures are the same."""
    columns: list[list[int | None]] = [[instant, 1_732_000_000_001, instant], [started, started, 1_732_000_000_001]]
    packed = np.zeros((2, 3))
    pack_columns(columns, packed, WHOLE)
    np.testing.assert_array_equal(np.array(columns, dtype=np.float64), packed)


def test_columns_whose_lengths_cancel_out_are_told_apart() -> None:
    """A null here and a number there take as many bytes as the other way round: neither may be read as the other."""
    columns: list[list[float | None]] = [[None, 1.0, 2.0], [3.0, None, 4.0], [5.0, 6.0, None]]
    packed = np.zeros((3, 3))
    pack_columns(columns, packed, FLOATS)
    np.testing.assert_array_equal(np.array(columns, dtype=np.float64), packed)


def test_a_long_column() -> None:
    """More entries than fit the middle size of head."""
    columns = [[float(i) for i in range(2**16)]]
    packed = np.zeros((1, 2**16))
    pack_columns(columns, packed, FLOATS)
    np.testing.assert_array_equal(np.arange(2**16, dtype=np.float64)[None], packed)


@pytest.mark.parametrize("width", [1, 15, 16, 40])
@pytest.mark.parametrize("count", LENGTHS)
def test_lists_are_rows(width: int, count: int) -> None:
    """Each list is one row, in order."""
    lists = [[float(i * width + k) for k in range(width)] for i in range(count)]
    packed = np.zeros((count, width))
    pack_lists(lists, packed)
    np.testing.assert_array_equal(np.array(lists), packed)
