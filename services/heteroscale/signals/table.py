"""All that is kept of one service's instances: their recent samples, as columns.

Samples are set aside as they arrive and entered together, once a window is about to close: sorted, duplicates dropped, the
absurd refused. What the table holds after that depends on which samples came between two closings, not on how they were batched.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final, NamedTuple

import numpy as np

from heteroscale.signals import wire
from heteroscale.signals.directory import Directory, Face
from heteroscale.signals.intake import AT, COUNTERS, EXTRAS, STARTED, Arrival, BucketColumns, Columns, Intake
from heteroscale.signals.series import Floats, Ints, Mask, Readings, Series, any_column
from heteroscale.signals.wire import HISTOGRAMS, BadSample, Batch, Edges, sample_bytes

TOKENS_PER_MS_MAX: Final = 1e4  # 10^7 tokens/s an instance: no engine does that
SAMPLES_PER_INSTANCE_MAX: Final = 1_024  # bounds the memory of one instance, whatever it sends
AHEAD_OF_TIME: Final = ("ahead_of_time", "at_ms is more than an hour ahead of the newest tick")
_EXTRAS: Final = slice(COUNTERS.stop, COUNTERS.stop + EXTRAS)
_BLOCK: Final = 8_192  # samples entered in one go: enough to be cheap, few enough to stay in the cache
_BLOCK_BUCKETS: Final = 16_384  # bucket counts entered in one go


class RefusedSample(NamedTuple):
    """A sample that was refused, and the record it came in."""

    offset: int
    bad: BadSample


class ServiceTable:
    """One service's instances. `enter` brings the set-aside samples in; the columns are then read by `closing`."""

    def __init__(self) -> None:
        self.series = Series(width=3, extras=EXTRAS)
        self.histograms: dict[str, dict[Edges, Series]] = {kind: {} for kind in HISTOGRAMS}
        self.last_at_ms = -np.inf
        self._directory = Directory()
        self._intake = Intake(self._directory)
        self._late = 0

    @property
    def instances(self) -> int:
        """How many instances are remembered."""
        return len(self._directory.row_of)

    @property
    def rows_used(self) -> int:
        """Rows below this number are, or were, given to an instance."""
        return self._directory.rows_used

    @property
    def faces(self) -> list[Face]:
        """Faces by their numbers."""
        return self._directory.faces

    @property
    def bytes_held(self) -> int:
        """Memory of the columns and of what is set aside."""
        every: list[Series] = [self.series, *chain.from_iterable(each.values() for each in self.histograms.values())]
        return sum(each.bytes_held for each in every) + self._intake.bytes_held

    def set_aside(self, batch: Batch, arrival: Arrival) -> int:
        """Keep a record's samples for `enter`; how many are waiting then."""
        self._intake.add(batch, arrival)
        return self._intake.count

    def take_late(self) -> int:
        """How many samples came late since the last window; counted once."""
        late, self._late = self._late, 0
        return late

    def enter(self, start_ms: float, forget_ms: float, limit_ms: float) -> list[RefusedSample]:
        """Bring in what was set aside. `start_ms`: the earliest start of a window still open; `limit_ms`: no sample is later."""
        arrived = self._intake.take()
        refused: list[RefusedSample] = []
        if arrived is not None:
            order = _in_order(arrived.rows, arrived.figures[AT])
            newest_ms = float(arrived.figures[AT].max())
            if newest_ms > limit_ms:
                beyond = arrived.figures[AT][order] > limit_ms
                refused = [self._refused(arrived, i, *AHEAD_OF_TIME) for i in order[beyond].tolist()]
                order = order[~beyond]
                newest_ms = float(arrived.figures[AT][order].max(initial=self.last_at_ms))
            self.last_at_ms = max(self.last_at_ms, newest_ms)
            rows = arrived.rows.take(order)
            self._late += int(np.count_nonzero(arrived.late.take(order)))
            flooding = self._make_room(arrived, rows, start_ms)
            places = [_places(found, len(arrived.rows)) for found in arrived.buckets]
            for begin, end in _blocks(rows):
                refused += self._enter_block(arrived, order[begin:end], flooding, places)
        self._forget_instances(start_ms - forget_ms)
        return refused

    def _make_room(self, arrived: Columns, rows: Ints, start_ms: float) -> Mask | None:
        """Room for what arrived (`rows`, twins left out); which rows would hold more samples than an instance may, if any would."""
        series = self.series
        series.reserve(self.rows_used)
        flooding: Mask | None = None
        if _fullest(series, rows) > SAMPLES_PER_INSTANCE_MAX:
            series.drop_before(start_ms)
            flooding = _after(series, rows) > SAMPLES_PER_INSTANCE_MAX
            rows = rows[~flooding[rows]]
        _make_room(series, rows, start_ms)
        for found in arrived.buckets:
            _make_room(self._buckets(found.kind, found.edges), arrived.rows[found.of], start_ms)
        return flooding

    def _enter_block(self, arrived: Columns, order: Ints, flooding: Mask | None, places: list[Ints]) -> list[RefusedSample]:
        """Enter all samples of some rows, which `order` sorts by row and time.

        Those newer than all of their row are appended. The others, and those of rows where a counter rises faster than any engine
        can, are judged one by one.
        """
        chosen, readings = order, _follow(self.series, arrived, order)
        orderly = readings.gap_ms > 0
        if flooding is not None or not orderly.all():
            rows = arrived.rows.take(order)
            orderly = arrived.figures[AT].take(order) > self.series.last_at(rows)
            if flooding is not None:
                orderly &= ~flooding[rows]
            chosen = order[orderly]
            readings = _follow(self.series, arrived, chosen)
        absurd = _too_fast(readings)
        if absurd.any():
            orderly &= ~np.isin(arrived.rows.take(order), readings.rows[absurd])
            chosen = order[orderly]
            readings = _follow(self.series, arrived, chosen)
        self.series.append(readings, (figures.take(chosen) for figures in arrived.figures[_EXTRAS]))
        for found, place in zip(arrived.buckets, places, strict=True):
            self._append_buckets(found, place[chosen], readings)
        if len(chosen) == len(order):
            return []
        return [refused for i in order[~orderly].tolist() if (refused := self._insert(arrived, i)) is not None]

    def _append_buckets(self, found: BucketColumns, place: Ints, readings: Readings) -> None:
        """Enter the histograms of readings that were just appended; `place`: where each one's counts are, -1 if it carries none."""
        buckets = self._buckets(found.kind, found.edges)
        carried = np.flatnonzero(place >= 0)
        step = max(1, _BLOCK_BUCKETS // buckets.width)
        for begin in range(0, len(carried), step):
            of = carried[begin : begin + step]
            rows, counts = readings.rows[of], found.counts.take(place[of], axis=0)
            buckets.append(buckets.follow(rows, readings.at[of], readings.started[of], counts))

    def _insert(self, arrived: Columns, i: int) -> RefusedSample | None:
        """Enter sample `i` in its place in time, judged by the one before it."""
        series, row, figures = self.series, int(arrived.rows[i]), arrived.figures[:, i]
        at = float(figures[AT])
        if series.has(row, at):
            self._late -= int(arrived.late[i])
            return None
        count = int(series.count[row])
        slot = int(np.searchsorted(series.at[:count, row], at))
        if count >= SAMPLES_PER_INSTANCE_MAX:
            return self._refused(arrived, i, "too_many_samples", f"more than {SAMPLES_PER_INSTANCE_MAX} samples of one instance")
        if slot and _absurd(series, row, slot - 1, figures):
            return self._refused(arrived, i, "absurd_rate", "a counter rose by more than 10^7 a second")
        series.insert(row, at, float(figures[STARTED]), figures[COUNTERS], figures[_EXTRAS])
        for kind, edges, of, counts in arrived.buckets:
            for found in np.flatnonzero(of == i).tolist():
                self._buckets(kind, edges).insert(row, at, float(figures[STARTED]), counts[found])
        return None

    def _refused(self, arrived: Columns, i: int, code: str, message: str) -> RefusedSample:
        """The sample as it came, found again in its record."""
        self._late -= int(arrived.late[i])
        arrival = arrived.arrivals[int(arrived.arrival[i])]
        name = self._directory.name(int(arrived.rows[i]))
        batch = wire.read(arrival.payload)
        samples = [batch.sample(position) for position in range(batch.size)] if isinstance(batch, Batch) else []
        found = [each for each in samples if each.instance == name and each.at_ms == int(arrived.figures[AT, i])]
        return RefusedSample(arrival.offset, BadSample(code, message, sample_bytes(found[0]) if found else arrival.payload))

    def _buckets(self, kind: str, edges: Edges) -> Series:
        """The series of one histogram and layout, with the rows of the table."""
        found = self.histograms[kind].get(edges)
        if found is None:
            found = self.histograms[kind][edges] = Series(width=len(edges) + 1, as_one=True)
        found.reserve(self.series.rows)
        return found

    def _forget_instances(self, before_ms: float) -> None:
        """Free the rows of instances last heard before `before_ms`, which no open window can need."""
        gone = np.flatnonzero((self.series.count > 0) & (self.series.last_at(np.arange(self.series.rows)) < before_ms))
        if not len(gone):
            return
        self.series.clear(gone)
        for buckets in chain.from_iterable(each.values() for each in self.histograms.values()):
            buckets.clear(gone[gone < buckets.rows])
        self._directory.free(gone.tolist())


def _in_order(rows: Ints, at: Floats) -> Ints:
    """The samples by row, then time; of those of one row and moment only the first to arrive.

    They mostly come in time order, so sorting by row alone is nearly always enough.
    """
    order = np.argsort(rows.astype(np.uint16) if len(rows) and rows.max() < 2**16 else rows, kind="stable")
    if _not_ascending(rows, at, order).any():
        order = np.lexsort((at, rows))
        order = order[np.append(True, ~_not_ascending(rows, at, order))]
    return order


def _not_ascending(rows: Ints, at: Floats, order: Ints) -> Mask:
    """Which samples, in this order and without the first, are of the row of the one before and not later."""
    rows, at = rows.take(order), at.take(order)
    found: Mask = (rows[1:] == rows[:-1]) & (at[1:] <= at[:-1])
    return found


def _places(found: BucketColumns, count: int) -> Ints:
    """Where the histogram of each of `count` samples is; -1 for those without."""
    places = np.full(count, -1)
    places[found.of] = np.arange(len(found.of))
    return places


def _blocks(rows: Ints) -> Iterator[tuple[int, int]]:
    """Stretches of sorted rows, each with all of its rows' entries and few enough that what is worked out of them stays in the cache."""
    begin = 0
    while begin < len(rows):
        end = min(begin + _BLOCK, len(rows))
        if end < len(rows):
            end = int(np.searchsorted(rows, rows[end - 1], side="right"))
        yield begin, end
        begin = end


def _follow(series: Series, arrived: Columns, chosen: Ints) -> Readings:
    at, started, *counters = (figures.take(chosen) for figures in arrived.figures[: COUNTERS.stop])
    return series.follow(arrived.rows.take(chosen), at, started, np.array(counters).T)


def _too_fast(readings: Readings) -> Mask:
    """Where a counter rises faster than any engine can."""
    return any_column(readings.rise() > TOKENS_PER_MS_MAX * readings.gap_ms[:, None])


def _absurd(series: Series, row: int, slot: int, figures: Floats) -> bool:
    """Whether a counter rises from the sample in `slot` faster than any engine can."""
    before, values = series.values[slot, row], figures[COUNTERS]
    started = float(series.started[slot, row]), float(figures[STARTED])
    other = started[0] != started[1] and not np.isnan(started).any()
    rise = np.where((values < before) | other, values, values - before)
    return bool((rise > TOKENS_PER_MS_MAX * (figures[AT] - series.at[slot, row])).any())


def _after(series: Series, rows: Ints) -> Ints:
    """Samples per row once one more per entry of `rows` is in."""
    return series.count + np.bincount(rows, minlength=series.rows)


def _fullest(series: Series, rows: Ints) -> int:
    return int(_after(series, rows).max())


def _make_room(series: Series, rows: Ints, start_ms: float) -> None:
    """Room for a sample more per entry of `rows`; what no open window needs goes first."""
    if _fullest(series, rows) > series.slots:
        series.drop_before(start_ms)
        series.reserve(series.rows, _fullest(series, rows))
