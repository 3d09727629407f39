"""Cumulative counters of many instances, and how much they rose inside a window.

A row is an instance, a slot one of its samples, slots in time order. A counter's rise between two neighbouring samples is
spread evenly over the time between them; a window gets its share. Where all neighbours are plain (no restart, no gap, no
absent value), a window's rise is a difference of two interpolated readings, taken for all rows at once; the few other rows
are walked pair by pair. Knows nothing of roles, services or watermarks. Times are milliseconds, held as floats (exact).
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

NEVER: Final = np.inf  # the time of an empty slot
_ROWS_FIRST: Final = 16
_SLOTS_FIRST: Final = 16


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


class Rise(NamedTuple):
    """Per row and column: how much the counters rose (NaN: no difference); per row: the milliseconds that differences cover."""

    amount: Floats
    covered_ms: Floats


class Series:
    """Recent readings of `width` counters a row, with `extras` further figures a sample that are only kept."""

    def __init__(self, width: int, extras: int = 0) -> None:
        self.width = width
        self.at = np.full((_ROWS_FIRST, _SLOTS_FIRST), NEVER)
        self.started = np.full((_ROWS_FIRST, _SLOTS_FIRST), np.nan)
        self.values = np.zeros((_ROWS_FIRST, _SLOTS_FIRST, width))
        self.extras = np.zeros((extras, _ROWS_FIRST, _SLOTS_FIRST))
        self.special = np.zeros((_ROWS_FIRST, _SLOTS_FIRST), dtype=np.bool_)  # the step from the slot before is not plain
        self.count = np.zeros(_ROWS_FIRST, dtype=np.int64)

    @property
    def rows(self) -> int:
        """Rows there is room for."""
        return self.at.shape[0]

    @property
    def slots(self) -> int:
        """Samples a row has room for."""
        return self.at.shape[1]

    def last_at(self, rows: Ints) -> Floats:
        """When each of `rows` was last read; -inf if never."""
        count = self.count[rows]
        return np.where(count > 0, self.at[rows, np.maximum(count - 1, 0)], -NEVER)

    def last_at_all(self) -> Floats:
        """When each row was last read; -inf if never."""
        return self.last_at(np.arange(self.rows))

    def reserve(self, rows: int, slots: int = 0) -> None:
        """Make room, at least doubling, so that growing stays cheap."""
        wide = self.rows if rows <= self.rows else max(rows, 2 * self.rows)
        deep = self.slots if slots <= self.slots else max(slots, 2 * self.slots)
        if (wide, deep) == self.at.shape:
            return
        old = slice(0, self.rows), slice(0, self.slots)
        for name, filler in (("at", NEVER), ("started", np.nan), ("values", 0.0), ("special", False)):
            array = getattr(self, name)
            grown = (
                np.full((wide, deep, *array.shape[2:]), filler, dtype=array.dtype)
                if filler
                else np.zeros((wide, deep, *array.shape[2:]), dtype=array.dtype)
            )
            grown[old] = array
            setattr(self, name, grown)
        extras = np.zeros((self.extras.shape[0], wide, deep))
        extras[:, old[0], old[1]] = self.extras
        self.extras = extras
        count = np.zeros(wide, dtype=np.int64)
        count[: len(self.count)] = self.count
        self.count = count

    def clear(self, rows: Ints) -> None:
        """Forget rows; they may be used for others then."""
        self.at[rows] = NEVER
        self.special[rows] = False
        self.count[rows] = 0

    def drop_before(self, start_ms: float) -> None:
        """Forget the samples that no window from `start_ms` on can need: those before the last reading at or before it."""
        drop = np.maximum(np.count_nonzero(self.at <= start_ms, axis=1) - 1, 0)
        rows = np.flatnonzero(drop)
        absent = np.isnan(self.values[rows, drop[rows]]).any(axis=1) & self.special[rows].any(axis=1)
        for row in rows[absent].tolist():
            drop[row] = self._last_readings(row, int(drop[row]))
        rows = rows[drop[rows] > 0]
        if not len(rows):
            return
        together = int(drop[self.count > 0].min())
        if together:
            self._shift(together)
            drop -= together
            rows = np.flatnonzero(drop > 0)
        if not len(rows):
            return
        source = np.arange(self.slots)[None, :] + drop[rows, None]
        beyond = source >= self.count[rows, None]
        source = np.minimum(source, self.slots - 1)
        where = rows[:, None], source
        self.at[rows] = np.where(beyond, NEVER, self.at[where])
        self.started[rows] = self.started[where]
        self.special[rows] = self.special[where] & ~beyond
        self.values[rows] = self.values[where]
        if len(self.extras):
            self.extras[:, rows] = self.extras[:, where[0], where[1]]
        self.count[rows] -= drop[rows]

    def _shift(self, slots: int) -> None:
        """Drop the first `slots` samples of every row: cheaper than to gather each row's own."""
        kept = self.slots - slots
        for array in (self.at, self.started, self.values, self.special):
            array[:, :kept] = array[:, slots:]
        self.extras[:, :, :kept] = self.extras[:, :, slots:]
        self.at[:, kept:] = NEVER
        self.special[:, kept:] = False
        self.count = np.maximum(self.count - slots, 0)

    def _last_readings(self, row: int, slot: int) -> int:
        """The first slot that is some counter's last reading up to `slot`: an absent value does not end what came before it."""
        there = ~np.isnan(self.values[row, : slot + 1])
        known = there.any(axis=0)
        return int(slot - np.argmax(there[::-1, known], axis=0).max()) if known.any() else slot

    def append(self, rows: Ints, at: Floats, started: Floats, values: Floats, extras: Floats | None = None) -> None:
        """Add readings, sorted by row and then time, each later than all of its row. `reserve` comes first.

        A step is plain if no counter fell, appeared or went away, and the process is the same. Gaps are judged when read.
        """
        first = np.empty(len(rows), dtype=np.bool_)
        first[0] = True
        np.not_equal(rows[1:], rows[:-1], out=first[1:])
        begins = np.flatnonzero(first)
        place = np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
        slots = self.count[rows] + place
        before = np.empty_like(values)
        before[1:] = values[:-1]
        started_before = np.empty_like(started)
        started_before[1:] = started[:-1]
        begun, previous = rows[begins], np.maximum(self.count[rows[begins]] - 1, 0)
        before[begins] = self.values[begun, previous]
        started_before[begins] = self.started[begun, previous]
        self.at[rows, slots] = at
        self.started[rows, slots] = started
        self.values[rows, slots] = values
        self.special[rows, slots] = (slots > 0) & _uneven(before, values, started_before, started)
        if extras is not None:
            self.extras[:, rows, slots] = extras
        ends = np.append(begins[1:], len(rows)) - 1
        self.count[rows[ends]] = slots[ends] + 1

    def insert(self, row: int, at: float, started: float, values: Floats, extras: Floats | None = None) -> None:
        """Add one reading in its place in time, between others."""
        count = int(self.count[row])
        self.reserve(self.rows, count + 1)
        slot = int(np.searchsorted(self.at[row, :count], at))
        for array in (self.at, self.started, self.values, self.special):
            array[row, slot + 1 : count + 1] = array[row, slot:count].copy()
        self.at[row, slot] = at
        self.started[row, slot] = started
        self.values[row, slot] = values
        if extras is not None:
            self.extras[:, row, slot + 1 : count + 1] = self.extras[:, row, slot:count].copy()
            self.extras[:, row, slot] = extras
        self.count[row] = count + 1
        for step in (slot, slot + 1):
            if step <= count:
                self.special[row, step] = step > 0 and self._uneven_step(row, step)

    def has(self, row: int, at: float) -> bool:
        """Whether `row` has a reading at exactly `at`."""
        return bool((self.at[row, : int(self.count[row])] == at).any())

    def _uneven_step(self, row: int, slot: int) -> bool:
        pair = slice(slot - 1, slot), slice(slot, slot + 1)
        values, started = self.values[row], self.started[row]
        return bool(_uneven(values[pair[0]], values[pair[1]], started[pair[0]], started[pair[1]])[0])

    def bounds(self, span: Span, rows: Ints) -> Bounds:
        """The slots that bound a window, for `rows`."""
        at = self.at[rows]
        before_end = np.count_nonzero(at < span.end_ms, axis=1)
        left = np.maximum(np.count_nonzero(at <= span.start_ms, axis=1) - 1, 0)
        last = before_end - 1
        after = np.minimum(before_end, self.slots - 1)
        bounded = (before_end < self.count[rows]) & (at[np.arange(len(rows)), after] - span.end_ms <= span.interval_ms)
        return Bounds(left, last, np.where(bounded, after, last))

    def rise(self, span: Span, rows: Ints, bounds: Bounds, from_ms: Floats) -> Rise:
        """How much each of `rows` rose in the window; `covered_ms` counts only from `from_ms` (per row) on."""
        left, last, right = bounds
        paired = (left < right) & (last >= 0)
        a, b = np.where(paired, left, 0), np.where(paired, right, 0)
        a_next, b_before = np.minimum(a + 1, self.slots - 1), np.maximum(b - 1, 0)
        at_a, at_b = self.at[rows, a], self.at[rows, b]
        from_edge = np.where(paired, np.maximum(span.start_ms, at_a), 0.0)
        to_edge = np.where(paired, np.minimum(span.end_ms, at_b), 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            share_a = np.where(paired, (from_edge - at_a) / (self.at[rows, a_next] - at_a), 0.0)
            share_b = np.where(paired, (at_b - to_edge) / (at_b - self.at[rows, b_before]), 0.0)
        at_left, at_right = self.values[rows, a], self.values[rows, b]
        amount = at_right - at_left
        cut = np.flatnonzero(share_a > 0)
        amount[cut] -= (self.values[rows[cut], a_next[cut]] - at_left[cut]) * share_a[cut, None]
        cut = np.flatnonzero(share_b > 0)
        amount[cut] -= (at_right[cut] - self.values[rows[cut], b_before[cut]]) * share_b[cut, None]
        np.maximum(amount, 0.0, out=amount)
        amount[~paired] = np.nan
        covered = np.where(paired, np.maximum(to_edge - np.maximum(from_edge, from_ms), 0.0), 0.0)
        covered[np.isnan(amount).all(axis=1)] = 0.0
        reach = np.count_nonzero(self.at[rows] <= span.end_ms + span.interval_ms, axis=1)
        for i in self._uneven_rows(span, rows, left, reach):
            amount[i], covered[i] = self._walk(int(rows[i]), int(reach[i]), span, float(from_ms[i]))
        return Rise(amount, covered)

    def _uneven_rows(self, span: Span, rows: Ints, left: Ints, reach: Ints) -> list[int]:
        """Which of `rows` have a step that is not plain (a restart, an absent value, a gap) after `left` and before slot `reach`."""
        steps = np.arange(1, self.slots)
        at = self.at[rows]
        with np.errstate(invalid="ignore"):
            far = at[:, 1:] - at[:, :-1] > span.forget_ms
        uneven = np.logical_or(far, self.special[rows, 1:])
        if not uneven.any():
            return []
        inside = (steps > left[:, None]) & (steps < reach[:, None])
        found: list[int] = np.flatnonzero((uneven & inside).any(axis=1)).tolist()
        return found

    def _walk(self, row: int, reach: int, span: Span, from_ms: float) -> tuple[Floats, float]:
        """One row's first `reach` slots, pair by pair: an absent value is stepped over, a counter that fell starts from zero."""
        at, started, values = self.at[row, :reach], self.started[row, :reach], self.values[row, :reach]
        amount = np.full(self.width, np.nan)
        covered = 0.0
        for columns in self._restarting_together():
            there = ~np.isnan(values[:, columns[0]])
            rise, span_ms = _walk_pairs(at[there], started[there], values[there][:, columns], span, from_ms)
            if rise is not None:
                amount[columns] = rise
                covered = max(covered, span_ms)
        return amount, covered

    def _restarting_together(self) -> list[list[int]]:
        """Groups of columns that a fall of any one restarts: here each by itself."""
        return [[column] for column in range(self.width)]


class BucketSeries(Series):
    """A histogram a row: a column a bucket. A fall of any bucket restarts all of them."""

    def _restarting_together(self) -> list[list[int]]:
        return [list(range(self.width))]


def _uneven(before: Floats, after: Floats, started_before: Floats, started: Floats) -> Mask:
    """Per step: whether any column fell, appeared or went away, or the process is another."""
    fell = (after < before).any(axis=1)
    came_or_went = (np.isnan(before) != np.isnan(after)).any(axis=1)
    uneven: Mask = fell | came_or_went | other_process(started_before, started)
    return uneven


def other_process(before: Floats, after: Floats) -> Mask:
    """Whether two known starts differ."""
    differ: Mask = (before != after) & ~np.isnan(before) & ~np.isnan(after)
    return differ


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
