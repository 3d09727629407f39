"""How much counters rose inside a window.

A rise between two neighbouring samples is spread evenly over the time between them; a window gets its share. Where all neighbours are
plain (no restart, no gap, no absent value), a window's rise is a difference of two interpolated readings, taken for all rows at once;
the few other rows are walked pair by pair.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from heteroscale.signals.series import Floats, Ints, Series, any_column, other_process, slots_where, taken, together


class Span(NamedTuple):
    """[start, end) and the rules of its edges."""

    start_ms: float
    end_ms: float
    interval_ms: float  # how far after the end a sample may stand and still bound it
    forget_ms: float  # neighbours further apart than this give no difference


class Bounds(NamedTuple):
    """Per row: the slots that bound a window. `left` > `right` where nothing does."""

    left: Ints  # the last sample at or before the start, else the first sample
    last: Ints  # the last sample before the end; -1 if there is none
    right: Ints  # the sample that bounds the end: the first at or after it within an interval, else `last`

    def reach(self, rows: Ints) -> slice:
        """All slots that bound some of `rows`, and those between them."""
        return slice(int(self.left[rows].min(initial=0)), max(0, int(self.right[rows].max(initial=-1)) + 1))


class Rise(NamedTuple):
    """Per row and column: how much the counters rose (NaN: no difference); per row: the milliseconds that differences cover."""

    amount: Floats
    covered_ms: Floats


def bounds(series: Series, span: Span, rows: Ints) -> Bounds:
    """The slots that bound a window, for `rows`."""
    at = series.at[: series.deepest, together(rows)]
    before_end = slots_where(at < span.end_ms)
    left = np.maximum(slots_where(at <= span.start_ms) - 1, 0)
    last = before_end - 1
    after = np.minimum(before_end, len(at) - 1)
    at_after = taken(series.at, series.places(after, rows))
    bounded = (before_end < series.count[rows]) & (at_after - span.end_ms <= span.interval_ms)
    return Bounds(left, last, np.where(bounded, after, last))


def rise(series: Series, span: Span, rows: Ints, bounds: Bounds, from_ms: Floats) -> Rise:
    """How much each of `rows` rose in the window; `covered_ms` counts only from `from_ms` (per row) on."""
    left, last, right = bounds
    paired = (left < right) & (last >= 0)
    a, b = series.places(np.where(paired, left, 0), rows), series.places(np.where(paired, right, 0), rows)
    a_next, b_before = np.where(paired, a + series.rows, a), np.where(paired, b - series.rows, b)
    at_a, at_b = taken(series.at, a), taken(series.at, b)
    from_edge = np.where(paired, np.maximum(span.start_ms, at_a), 0.0)
    to_edge = np.where(paired, np.minimum(span.end_ms, at_b), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share_a = np.where(paired, (from_edge - at_a) / (taken(series.at, a_next) - at_a), 0.0)
        share_b = np.where(paired, (at_b - to_edge) / (at_b - taken(series.at, b_before)), 0.0)
    at_left, at_right = taken(series.values, a), taken(series.values, b)
    amount = at_right - at_left
    amount -= (taken(series.values, a_next) - at_left) * share_a[:, None]
    amount -= (at_right - taken(series.values, b_before)) * share_b[:, None]
    np.maximum(amount, 0.0, out=amount)
    amount[~paired] = np.nan
    covered = np.where(paired, np.maximum(to_edge - np.maximum(from_edge, from_ms), 0.0), 0.0)
    covered[~any_column(~np.isnan(amount))] = 0.0
    for i, reach in _uneven_rows(series, span, rows, left):
        amount[i], covered[i] = _walk(series, int(rows[i]), reach, span, float(from_ms[i]))
    return Rise(amount, covered)


def _uneven_rows(series: Series, span: Span, rows: Ints, left: Ints) -> list[tuple[int, int]]:
    """Which of `rows` have a step that is not plain (restart, absent value, gap) after `left` and within reach, and that reach."""
    chosen, deepest = together(rows), series.deepest
    uneven = series.special[1:deepest, chosen]
    at = series.at[:deepest, chosen]
    if series.gap_ms_max > span.forget_ms:
        with np.errstate(invalid="ignore"):
            uneven = uneven | (at[1:] - at[:-1] > span.forget_ms)
    if not uneven.any():
        return []
    reach = slots_where(at <= span.end_ms + span.interval_ms)
    steps = np.arange(1, deepest)[:, None]
    found = np.flatnonzero((uneven & (steps > left) & (steps < reach)).any(axis=0))
    return list(zip(found.tolist(), reach[found].tolist(), strict=True))


def _walk(series: Series, row: int, reach: int, span: Span, from_ms: float) -> tuple[Floats, float]:
    """One row's first `reach` slots, pair by pair: an absent value is stepped over, a counter that fell starts from zero."""
    at, started, values = series.at[:reach, row], series.started[:reach, row], series.values[:reach, row]
    amount = np.full(series.width, np.nan)
    covered = 0.0
    for columns in [list(range(series.width))] if series.as_one else [[column] for column in range(series.width)]:
        there = ~np.isnan(values[:, columns[0]])
        rise, span_ms = _walk_pairs(at[there], started[there], values[there][:, columns], span, from_ms)
        if rise is not None:
            amount[columns] = rise
            covered = max(covered, span_ms)
    return amount, covered


def _walk_pairs(at: Floats, started: Floats, values: Floats, span: Span, from_ms: float) -> tuple[Floats | None, float]:
    """The window's share of all rises between neighbours, and the time they cover. Shapes: [k], [k], [k, columns]."""
    amounts: Floats | None = None
    covered = 0.0
    for i in range(len(at) - 1):
        t0, t1 = float(at[i]), float(at[i + 1])
        if t1 >= span.end_ms and t1 - span.end_ms > span.interval_ms:
            break
        overlap = min(t1, span.end_ms) - max(t0, span.start_ms)
        if overlap <= 0 or t1 - t0 > span.forget_ms:
            continue
        restarted = bool((values[i + 1] < values[i]).any() or other_process(started[i : i + 1], started[i + 1 : i + 2])[0])
        rise = values[i + 1] if restarted else values[i + 1] - values[i]
        share = rise * (overlap / (t1 - t0))
        amounts = share if amounts is None else amounts + share
        covered += max(0.0, min(t1, span.end_ms) - max(t0, span.start_ms, from_ms))
    return amounts, covered
