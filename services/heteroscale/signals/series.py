"""Cumulative counters of many instances, and how much they rose inside a window.

A row is an instance, a slot one of its samples, slots in time order; arrays are [slot, row], so that one step of all instances lies
together. A counter's rise between two neighbouring samples is spread evenly over the time between them; a window gets its share.
Where all neighbours are plain (no restart, no gap, no absent value), a window's rise is a difference of two interpolated readings,
taken for all rows at once; the few other rows are walked pair by pair. Knows nothing of roles, services or watermarks. Times are
milliseconds, held as floats (exact).
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

NEVER: Final = np.inf  # the time of an empty slot
_ROWS_FIRST: Final = 16
_SLOTS_FIRST: Final = 16
_FEW: Final = 4  # columns that are cheaper taken one by one


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


class Readings(NamedTuple):
    """New readings, sorted by row and then time, each later than all of its row, and how each follows the one before."""

    rows: Ints  # [n]
    slots: Ints  # [n] where they will stand
    at: Floats  # [n]
    started: Floats  # [n]
    values: Floats  # [n, width]
    before: Floats  # [n, width] the values of the one before; anything for a row's first
    gap_ms: Floats  # [n] since the one before; infinite for a row's first
    other: Mask  # [n] the process is another than that of the one before
    special: Mask  # [n] so it is, or a counter fell, appeared or went away

    def rise(self) -> Floats:
        """How much each counter rose since the one before, from zero where it fell or the process is another: [n, width]."""
        rise = self.values - self.before
        if self.special.any():
            rise = np.where((rise < 0) | self.other[:, None], self.values, rise)
        return rise


_EMPTY: Final[dict[int, Any]] = {0: NEVER, 1: np.nan, 2: False}  # what an empty slot holds, by array


class Series:
    """Recent readings of `width` counters a row, with `extras` further figures a sample that are only kept."""

    def __init__(self, width: int, extras: int = 0) -> None:
        self.width = width
        self.count = np.zeros(_ROWS_FIRST, dtype=np.int64)
        self._base = 0  # slots before it are dropped
        self._gap_ms_max = 0.0  # no two neighbours were ever further apart
        room = (_SLOTS_FIRST, _ROWS_FIRST)
        every = [np.zeros(room) for _ in range(extras)]
        self._hold([np.full(room, NEVER), np.full(room, np.nan), np.zeros(room, dtype=np.bool_), np.zeros((*room, width)), *every])

    def _hold(self, arrays: list[NDArray[Any]]) -> None:
        """These are the arrays now; what is seen of them begins at the base."""
        self._arrays = arrays
        seen = [array[self._base :] for array in arrays]
        self.at: Floats = seen[0]
        self.started: Floats = seen[1]
        self.special: Mask = seen[2]  # the step from the slot before is not plain
        self.values: Floats = seen[3]
        self.extras: list[Floats] = seen[4:]

    @property
    def rows(self) -> int:
        """Rows there is room for."""
        return len(self.count)

    @property
    def slots(self) -> int:
        """Samples a row has room for."""
        return len(self.at)

    @property
    def deepest(self) -> int:
        """Slots in use; at least one."""
        return max(1, int(self.count.max()))

    @property
    def bytes_held(self) -> int:
        """Memory of all of it."""
        return self.count.nbytes + sum(array.nbytes for array in self._arrays)

    def last_at(self, rows: Ints | slice) -> Floats:
        """When each of `rows` was last read; -inf if never."""
        count, every = self.count[rows], np.arange(self.rows)[rows]
        return np.where(count > 0, self.at[np.maximum(count - 1, 0), every], -NEVER)

    def reserve(self, rows: int, slots: int = 0) -> None:
        """Make room, by half again at least, so that growing stays cheap."""
        if rows > self.rows:
            wide = max(rows, 2 * self.rows)
            self.count = np.concatenate([self.count, np.zeros(wide - self.rows, dtype=np.int64)])
            self._resize(len(self._arrays[0]), wide)
        if slots > self.slots:
            room = len(self._arrays[0])
            if slots > room or self._base < room // 4:
                room = max(slots, room * 3 // 2)
            self._resize(room, self.rows)

    def clear(self, rows: Ints) -> None:
        """Forget rows; they may be used for others then."""
        self.at[:, rows] = NEVER
        self.special[:, rows] = False
        self.count[rows] = 0

    def drop_before(self, start_ms: float) -> None:
        """Forget the samples that no window from `start_ms` on can need: those before the last reading at or before it.

        What all rows can do without costs nothing to drop. A row that could drop one sample more keeps it.
        """
        drop = np.maximum(slots_where(self.at[: self.deepest] <= start_ms) - 1, 0)
        rows = np.flatnonzero(drop)
        absent = np.isnan(self.values[drop[rows], rows]).any(axis=1) & self.special[:, rows].any(axis=0)
        for row in rows[absent].tolist():
            drop[row] = self._last_readings(row, int(drop[row]))
        together = int(drop[self.count > 0].min(initial=self.slots)) if len(rows) else 0
        if together:
            self._base += together
            self.count = np.maximum(self.count - together, 0)
            self._hold(self._arrays)
        rows = np.flatnonzero(drop - together > 1)
        if len(rows):
            self._shift(rows, drop[rows] - together)

    def follow(self, rows: Ints, at: Floats, started: Floats, values: Floats) -> Readings:
        """How new readings follow those that are there. They are sorted by row and then time, each later than all of its row."""
        first = np.empty(len(rows), dtype=np.bool_)
        first[:1] = True
        np.not_equal(rows[1:], rows[:-1], out=first[1:])
        begins = np.flatnonzero(first)
        count = self.count[rows]
        slots = count + np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
        begun = rows[begins]
        last = np.maximum(self.count[begun] - 1, 0)
        at_before, started_before, before = _shifted(at), _shifted(started), _shifted(values)
        at_before[begins] = np.where(count[begins] > 0, self.at[last, begun], -NEVER)
        started_before[begins] = self.started[last, begun]
        before[begins] = self.values[last, begun]
        other = other_process(started_before, started)
        special = any_column(values < before) | other
        if np.isnan(values).any() or np.isnan(before).any():
            special |= any_column(np.isnan(before) != np.isnan(values))
        special &= slots > 0
        return Readings(rows, slots, at, started, values, before, at - at_before, other, special)

    def append(self, readings: Readings, extras: Floats | None = None) -> None:
        """Add readings, as `follow` found them. `reserve` comes first. `extras`: [extras, n]."""
        rows, slots = readings.rows, readings.slots
        place = slots * self.rows + rows
        for array, figures in zip(
            (self.at, self.started, self.special, *self.extras),
            (readings.at, readings.started, readings.special, *(() if extras is None else extras)),
            strict=True,
        ):
            array.reshape(-1)[place] = figures
        self.values.reshape(-1, self.width)[place] = readings.values
        self.count += np.bincount(rows, minlength=self.rows)
        self._gap_ms_max = max(self._gap_ms_max, float(readings.gap_ms[slots > 0].max(initial=0.0)))

    def insert(self, row: int, at: float, started: float, values: Floats, extras: Floats | None = None) -> None:
        """Add one reading in its place in time, between others."""
        count = int(self.count[row])
        self.reserve(self.rows, count + 1)
        slot = int(np.searchsorted(self.at[:count, row], at))
        for array in (self.at, self.started, self.special, self.values, *self.extras):
            array[slot + 1 : count + 1, row] = array[slot:count, row].copy()
        self.at[slot, row] = at
        self.started[slot, row] = started
        self.values[slot, row] = values
        for array, figure in zip(self.extras, () if extras is None else extras, strict=True):
            array[slot, row] = figure
        self.count[row] = count + 1
        for step in (slot, slot + 1):
            if step <= count:
                self.special[step, row] = step > 0 and self._uneven_step(row, step)
            if 0 < step <= count:
                self._gap_ms_max = max(self._gap_ms_max, float(self.at[step, row] - self.at[step - 1, row]))

    def has(self, row: int, at: float) -> bool:
        """Whether `row` has a reading at exactly `at`."""
        return bool((self.at[: int(self.count[row]), row] == at).any())

    def bounds(self, span: Span, rows: Ints) -> Bounds:
        """The slots that bound a window, for `rows`."""
        at = self.at[: self.deepest, together(rows)]
        before_end = slots_where(at < span.end_ms)
        left = np.maximum(slots_where(at <= span.start_ms) - 1, 0)
        last = before_end - 1
        after = np.minimum(before_end, len(at) - 1)
        bounded = (before_end < self.count[rows]) & (at[after, np.arange(len(rows))] - span.end_ms <= span.interval_ms)
        return Bounds(left, last, np.where(bounded, after, last))

    def rise(self, span: Span, rows: Ints, bounds: Bounds, from_ms: Floats) -> Rise:
        """How much each of `rows` rose in the window; `covered_ms` counts only from `from_ms` (per row) on."""
        left, last, right = bounds
        paired = (left < right) & (last >= 0)
        a, b = np.where(paired, left, 0), np.where(paired, right, 0)
        a_next, b_before = np.minimum(a + 1, self.slots - 1), np.maximum(b - 1, 0)
        at_a, at_b = self.at[a, rows], self.at[b, rows]
        from_edge = np.where(paired, np.maximum(span.start_ms, at_a), 0.0)
        to_edge = np.where(paired, np.minimum(span.end_ms, at_b), 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            share_a = np.where(paired, (from_edge - at_a) / (self.at[a_next, rows] - at_a), 0.0)
            share_b = np.where(paired, (at_b - to_edge) / (at_b - self.at[b_before, rows]), 0.0)
        at_left, at_right = self.values[a, rows], self.values[b, rows]
        amount = at_right - at_left
        cut = np.flatnonzero(share_a > 0)
        amount[cut] -= (self.values[a_next[cut], rows[cut]] - at_left[cut]) * share_a[cut, None]
        cut = np.flatnonzero(share_b > 0)
        amount[cut] -= (at_right[cut] - self.values[b_before[cut], rows[cut]]) * share_b[cut, None]
        np.maximum(amount, 0.0, out=amount)
        amount[~paired] = np.nan
        covered = np.where(paired, np.maximum(to_edge - np.maximum(from_edge, from_ms), 0.0), 0.0)
        covered[~any_column(~np.isnan(amount))] = 0.0
        for i, reach in self._uneven_rows(span, rows, left):
            amount[i], covered[i] = self._walk(int(rows[i]), reach, span, float(from_ms[i]))
        return Rise(amount, covered)

    def _resize(self, slots: int, rows: int) -> None:
        """Arrays of another shape, or of the same, with what is seen at their beginning."""
        used = min(self.slots, slots)
        arrays: list[NDArray[Any]] = []
        for number, array in enumerate(self._arrays):
            if array.shape[:2] == (slots, rows):
                array[:used] = array[self._base : self._base + used]
                if number in _EMPTY:
                    array[used:] = _EMPTY[number]
                arrays.append(array)
                continue
            moved = np.full((slots, rows, *array.shape[2:]), _EMPTY.get(number, 0), dtype=array.dtype)
            moved[:used, : array.shape[1]] = array[self._base : self._base + used]
            arrays.append(moved)
        self._base = 0
        self._hold(arrays)

    def _shift(self, rows: Ints, drop: Ints) -> None:
        """Drop the first `drop` samples of each of `rows`."""
        source = np.arange(self.slots)[:, None] + drop
        beyond = source >= self.count[rows]
        source = np.minimum(source, self.slots - 1)
        for array in (self.at, self.started, self.special, self.values, *self.extras):
            array[:, rows] = array[source, rows]
        self.at[:, rows] = np.where(beyond, NEVER, self.at[:, rows])
        self.special[:, rows] &= ~beyond
        self.count[rows] -= drop

    def _last_readings(self, row: int, slot: int) -> int:
        """The first slot that is some counter's last reading up to `slot`: an absent value does not end what came before it."""
        there = ~np.isnan(self.values[: slot + 1, row])
        known = there.any(axis=0)
        return int(slot - np.argmax(there[::-1, known], axis=0).max()) if known.any() else slot

    def _uneven_step(self, row: int, slot: int) -> bool:
        before, after = self.values[slot - 1, row], self.values[slot, row]
        fell_or_changed = (after < before) | (np.isnan(before) != np.isnan(after))
        return bool(fell_or_changed.any() or other_process(self.started[slot - 1 : slot, row], self.started[slot : slot + 1, row])[0])

    def _uneven_rows(self, span: Span, rows: Ints, left: Ints) -> list[tuple[int, int]]:
        """Which of `rows` have a step that is not plain (restart, absent value, gap) after `left` and within reach, and that reach."""
        chosen, deepest = together(rows), self.deepest
        uneven = self.special[1:deepest, chosen]
        at = self.at[:deepest, chosen]
        if self._gap_ms_max > span.forget_ms:
            with np.errstate(invalid="ignore"):
                uneven = uneven | (at[1:] - at[:-1] > span.forget_ms)
        if not uneven.any():
            return []
        reach = slots_where(at <= span.end_ms + span.interval_ms)
        steps = np.arange(1, deepest)[:, None]
        found = np.flatnonzero((uneven & (steps > left) & (steps < reach)).any(axis=0))
        return list(zip(found.tolist(), reach[found].tolist(), strict=True))

    def _walk(self, row: int, reach: int, span: Span, from_ms: float) -> tuple[Floats, float]:
        """One row's first `reach` slots, pair by pair: an absent value is stepped over, a counter that fell starts from zero."""
        at, started, values = self.at[:reach, row], self.started[:reach, row], self.values[:reach, row]
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


def together(rows: Ints) -> Ints | slice:
    """Sorted rows, as a slice if none is left out between them: a slice is looked at, other rows are copied."""
    if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def slots_where(mask: Mask) -> Ints:
    """How many slots of each row hold. Rows have fewer than 2^15, and narrow sums are quick."""
    count: Ints = mask.sum(axis=0, dtype=np.int16).astype(np.int64)
    return count


def other_process(before: Floats, after: Floats) -> Mask:
    """Whether two known starts differ."""
    differ: Mask = before != after
    if differ.any():
        differ &= ~np.isnan(before) & ~np.isnan(after)
    return differ


def _shifted(readings: Floats) -> Floats:
    """Each entry's predecessor; the first is left open."""
    before = np.empty_like(readings)
    before[1:] = readings[:-1]
    return before


def any_column(mask: Mask) -> Mask:
    """Whether any column holds, per row."""
    found: Mask = np.logical_or.reduce(mask, axis=1) if mask.shape[1] > _FEW else reduce(operator.or_, mask.T)
    return found


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
