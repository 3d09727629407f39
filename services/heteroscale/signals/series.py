"""Cumulative counters of many instances, as they were read.

A row is an instance, a slot one of its samples, slots in time order; arrays are [slot, row], so that one step of all instances lies
together. Each step is marked if it is not plain: a restart, or an absent value. Knows nothing of windows, roles or services. Times
are milliseconds, held as floats (exact).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
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


class Readings(NamedTuple):
    """New readings, sorted by row and then time, each later than all of its row, and how each follows the one before."""

    rows: Ints  # [n]
    slots: Ints  # [n] where they will stand
    at: Floats  # [n]
    started: Floats  # [n]
    values: Floats  # [n, width]
    step: Floats  # [n, width] values less those of the one before; anything for a row's first
    gap_ms: Floats  # [n] since the one before; infinite for a row's first
    other: Mask  # [n] the process is another than that of the one before
    special: Mask  # [n] so it is, or a counter fell, appeared or went away

    def rise(self) -> Floats:
        """How much each counter rose since the one before, from zero where it fell or the process is another: [n, width]."""
        return np.where((self.step < 0) | self.other[:, None], self.values, self.step) if self.special.any() else self.step


_EMPTY: Final[dict[int, Any]] = {0: NEVER, 1: np.nan, 2: False}  # what an empty slot holds, by array


class Series:
    """Recent readings of `width` counters a row, with `extras` further figures a sample that are only kept.

    `as_one`: a fall of any counter restarts all of them, as with the buckets of a histogram.
    """

    def __init__(self, width: int, extras: int = 0, *, as_one: bool = False) -> None:
        self.width = width
        self.as_one = as_one
        self.count = np.zeros(_ROWS_FIRST, dtype=np.int64)
        self._base = 0  # slots before it are dropped
        self.gap_ms_max = 0.0  # no two neighbours were ever further apart
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

    def last_at(self, rows: Ints) -> Floats:
        """When each of `rows` was last read; -inf if never."""
        count = self.count.take(rows)
        return np.where(count > 0, taken(self.at, self.places(np.maximum(count - 1, 0), rows)), -NEVER)

    def places(self, slots: Ints, rows: Ints) -> Ints:
        """Where samples stand in the arrays, counted as if slots lay one after the other: for `taken`."""
        return slots * self.rows + rows

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
        begun = rows.take(begins)
        count = self.count.take(begun)
        slots = np.arange(len(rows))
        slots += np.repeat(count - begins, np.diff(begins, append=len(rows)))
        last = self.places(np.maximum(count - 1, 0), begun)
        at_before, started_before, before = _shifted(at), _shifted(started), _shifted(values)
        at_before[begins] = np.where(count > 0, taken(self.at, last), -NEVER)
        started_before[begins] = taken(self.started, last)
        before[begins] = taken(self.values, last)
        other = other_process(started_before, started)
        step = values - before
        fell = step < 0
        special = any_column(fell) | other if fell.any() else other.copy()
        if not self.as_one and np.isnan(step).any():
            special |= any_column(np.isnan(before) != np.isnan(values))
        special &= slots > 0
        return Readings(rows, slots, at, started, values, step, at - at_before, other, special)

    def append(self, readings: Readings, extras: Iterable[Floats] = ()) -> None:
        """Add readings, as `follow` found them. `reserve` comes first. `extras`: an array of n for each."""
        rows, slots = readings.rows, readings.slots
        place = self.places(slots, rows)
        figures = (readings.at, readings.started, readings.special, *extras)
        for array, added in zip((self.at, self.started, self.special, *self.extras), figures, strict=True):
            array.reshape(-1)[place] = added
        self.values.reshape(-1, self.width)[place] = readings.values
        self.count[rows] = slots + 1  # a row's last reading counts
        if readings.gap_ms.max(initial=0.0) > self.gap_ms_max:
            self.gap_ms_max = max(self.gap_ms_max, float(readings.gap_ms[slots > 0].max(initial=0.0)))

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
                self.gap_ms_max = max(self.gap_ms_max, float(self.at[step, row] - self.at[step - 1, row]))

    def has(self, row: int, at: float) -> bool:
        """Whether `row` has a reading at exactly `at`."""
        return bool((self.at[: int(self.count[row]), row] == at).any())

    def _resize(self, slots: int, rows: int) -> None:
        """Arrays of another shape, or of the same, with what is seen at their beginning."""
        used = self.deepest
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


def together(rows: Ints) -> Ints | slice:
    """Sorted rows, as a slice if none is left out between them: a slice is looked at, other rows are copied."""
    if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def taken(array: Floats, places: Ints) -> Floats:
    """What an array [slot, row, …] holds at these places. Three times as fast as two indices."""
    return array.reshape(-1, *array.shape[2:]).take(places, axis=0)


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
