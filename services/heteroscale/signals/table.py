"""All that is kept of one service's instances: their recent samples, as columns.

Samples are set aside as they arrive and entered together, once a window is about to close: sorted, duplicates dropped, the
absurd refused. What the table holds after that depends on which samples came between two closings, not on how they were batched.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np

from heteroscale.contracts.names import GpuTypeName, InstanceName, RoleName
from heteroscale.contracts.telemetry import EngineState
from heteroscale.signals.series import BucketSeries, Floats, Ints, Mask, Series, other_process
from heteroscale.signals.wire import BadSample, Batch, Edges, WireSample, sample_bytes

TOKENS_PER_MS_MAX: Final = 1e4  # 10^7 tokens/s an instance: no engine does that
SAMPLES_PER_INSTANCE_MAX: Final = 1_024  # bounds the memory of one instance, whatever it sends
_EXACT: Final = float(2**40)  # gauges are held in steps of 2^-40, so that their sums are exact in any order
_PLAIN = attrgetter(
    "at_ms", "started_at_ms", "generation_tokens", "prompt_tokens", "cached_prompt_tokens",
    "kv_usage", "gpu_util", "sm_active", "running", "waiting",
)  # fmt: skip
_PLAIN_WIDTH: Final = 10
_FACE = attrgetter("role", "gpu_type", "gpus", "state")
_NAME = attrgetter("instance")
_AT = attrgetter("at_ms")

GENERATION, PROMPT, CACHED = range(3)  # columns of the counters
KV_USAGE, GPU_UTIL, SM_ACTIVE, RUNNING, WAITING, FACE, OFFSET = range(7)  # rows of the extras


class Face(NamedTuple):
    """What a sample says of its instance besides figures."""

    role: RoleName
    gpu_type: GpuTypeName | None
    gpus: int | None
    state: EngineState


class RefusedSample(NamedTuple):
    """A sample that was refused, and the record it came in."""

    offset: int
    bad: BadSample


class _Waiting(NamedTuple):
    batch: Batch
    offset: int
    watermark_ms: float  # when it arrived; -inf before the first tick


class _Entries(NamedTuple):
    """Samples about to be entered, as columns, sorted by row and time."""

    samples: list[WireSample]
    batch_of: Ints
    rows: Ints
    figures: Floats  # [n, _PLAIN_WIDTH]
    extras: Floats  # [7, n]
    late: Mask

    def subset(self, keep: Mask | Ints) -> _Entries:
        chosen = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        samples = (
            self.samples if len(chosen) == len(self.samples) and keep.dtype == np.bool_ else [self.samples[i] for i in chosen.tolist()]
        )
        return _Entries(samples, self.batch_of[chosen], self.rows[chosen], self.figures[chosen], self.extras[:, chosen], self.late[chosen])


class ServiceTable:
    """One service's instances. `enter` brings the set-aside samples in; the columns are then read by `closing`."""

    def __init__(self) -> None:
        self.series = Series(width=3, extras=7)
        self.histograms: dict[str, dict[Edges, BucketSeries]] = {"ttft": {}, "tbt": {}}
        self.faces: list[Face] = []
        self.late_samples = 0
        self.last_at_ms = -np.inf
        self.waiting_count = 0
        self._waiting: list[_Waiting] = []
        self._row_of: dict[InstanceName, int] = {}
        self._name_of: dict[int, InstanceName] = {}
        self._free: list[int] = []
        self._face_of: dict[tuple[object, ...], int] = {}

    @property
    def instances(self) -> int:
        """How many instances are remembered."""
        return len(self._row_of)

    @property
    def rows_used(self) -> int:
        """Rows below this number are, or were, given to an instance."""
        return len(self._row_of) + len(self._free)

    @property
    def bytes_held(self) -> int:
        """Memory of the columns."""
        every: list[Series] = [self.series, *chain.from_iterable(each.values() for each in self.histograms.values())]
        return sum(a.nbytes for s in every for a in (s.at, s.started, s.values, s.extras, s.special, s.count))

    def set_aside(self, batch: Batch, offset: int, watermark_ms: float) -> None:
        """Keep a record's samples for `enter`."""
        self._waiting.append(_Waiting(batch, offset, watermark_ms))
        self.waiting_count += len(batch.samples)

    def take_late(self) -> int:
        """How many samples came late since the last window; counted once."""
        late, self.late_samples = self.late_samples, 0
        return late

    def enter(self, start_ms: float, forget_ms: float) -> list[RefusedSample]:
        """Bring in what was set aside. `start_ms`: the earliest start of a window still open."""
        if not self._waiting:
            return []
        waiting, self._waiting, self.waiting_count = self._waiting, [], 0
        self._forget_instances(start_ms - forget_ms)
        entries = self._entries(waiting)
        self.last_at_ms = max(self.last_at_ms, float(entries.figures[:, 0].max()))
        entries = _without_twins(entries)
        self.late_samples += int(entries.late.sum())
        refused: list[RefusedSample] = []
        in_order = entries.figures[:, 0] > self.series.last_at(entries.rows)
        regular = entries.subset(in_order)
        bad = np.union1d(self._absurd_rows(regular), self._flooding_rows(regular, start_ms))
        one_by_one = regular.subset(np.isin(regular.rows, bad)) if len(bad) else None
        if one_by_one is not None:
            regular = regular.subset(~np.isin(regular.rows, bad))
        self._append(regular, waiting, start_ms)
        for rest in (one_by_one, None if in_order.all() else entries.subset(~in_order)):
            if rest is not None:
                refused += [found for i in range(len(rest.rows)) if (found := self._insert(rest, i, waiting)) is not None]
        return refused

    def _entries(self, waiting: list[_Waiting]) -> _Entries:
        samples: list[WireSample] = list(chain.from_iterable(each.batch.samples for each in waiting))
        lengths = [len(each.batch.samples) for each in waiting]
        batch_of = np.repeat(np.arange(len(waiting)), lengths)
        rows = self._rows(samples)
        flat = chain.from_iterable(map(_PLAIN, samples))
        figures = np.fromiter(flat, dtype=np.float64, count=len(samples) * _PLAIN_WIDTH).reshape(-1, _PLAIN_WIDTH)
        extras = np.empty((7, len(samples)))
        extras[:FACE] = figures[:, 5:].T
        np.rint(extras[:RUNNING] * _EXACT, out=extras[:RUNNING])
        extras[:RUNNING] /= _EXACT
        extras[FACE] = self._faces(samples)
        extras[OFFSET] = np.repeat(np.fromiter((each.offset for each in waiting), dtype=np.float64, count=len(waiting)), lengths)
        late = figures[:, 0] < np.repeat(
            np.fromiter((each.watermark_ms for each in waiting), dtype=np.float64, count=len(waiting)), lengths
        )
        order = np.lexsort((figures[:, 0], rows))
        return _Entries(samples, batch_of, rows, figures, extras, late).subset(order)

    def _rows(self, samples: list[WireSample]) -> Ints:
        """The row of each sample's instance, new ones given."""
        found = list(map(self._row_of.get, map(_NAME, samples)))
        if None in found:
            for i, row in enumerate(found):
                if row is None:
                    found[i] = self._row(samples[i].instance)
        return np.array(found, dtype=np.int64)

    def _row(self, name: InstanceName) -> int:
        row = self._row_of.get(name)
        if row is None:
            row = self._free.pop() if self._free else len(self._row_of)
            self.series.reserve(row + 1)
            self._row_of[name] = row
            self._name_of[row] = name
        return row

    def _faces(self, samples: list[WireSample]) -> list[int]:
        faces = list(map(_FACE, samples))
        found = list(map(self._face_of.get, faces))
        if None in found:
            for i, known in enumerate(found):
                if known is None:
                    found[i] = self._face_of.setdefault(faces[i], len(self.faces))
                    if found[i] == len(self.faces):
                        self.faces.append(Face(*faces[i]))
        return found  # type: ignore[return-value] # every None was replaced

    def _absurd_rows(self, entries: _Entries) -> Ints:
        """Rows where a counter rises faster than any engine can; their samples are then judged one by one."""
        series, rows, at, counters = self.series, entries.rows, entries.figures[:, 0], entries.figures[:, 2:5]
        if not len(rows):
            return np.empty(0, dtype=np.int64)
        first = np.append(True, rows[1:] != rows[:-1])
        previous = np.maximum(series.count[rows] - 1, 0)
        known = ~first | (series.count[rows] > 0)
        at_before = np.where(first, series.at[rows, previous], np.roll(at, 1))
        before = np.where(first[:, None], series.values[rows, previous], np.roll(counters, 1, axis=0))
        started_before = np.where(first, series.started[rows, previous], np.roll(entries.figures[:, 1], 1))
        restarted = other_process(started_before, entries.figures[:, 1])[:, None]
        rise = np.where((counters < before) | restarted, counters, counters - before)
        with np.errstate(invalid="ignore"):
            absurd = known & (rise > TOKENS_PER_MS_MAX * (at - at_before)[:, None]).any(axis=1)
        return np.unique(rows[absurd])

    def _flooding_rows(self, entries: _Entries, start_ms: float) -> Ints:
        """Rows that would hold more samples than any one instance may."""
        if _fullest(self.series, entries.rows) > SAMPLES_PER_INSTANCE_MAX:
            self.series.drop_before(start_ms)
        return np.flatnonzero(_after(self.series, entries.rows) > SAMPLES_PER_INSTANCE_MAX)

    def _append(self, entries: _Entries, waiting: list[_Waiting], start_ms: float) -> None:
        """Enter samples that are newer than all of their row."""
        if not len(entries.rows):
            return
        _make_room(self.series, entries.rows, start_ms)
        self.series.append(entries.rows, entries.figures[:, 0], entries.figures[:, 1], entries.figures[:, 2:5], entries.extras)
        for kind in ("ttft", "tbt"):
            histograms = [getattr(sample, kind) for sample in entries.samples]
            carrying = [i for i, histogram in enumerate(histograms) if histogram is not None]
            if not carrying:
                continue
            edges = [
                waiting[b].batch.layouts[histograms[i].layout] for i, b in zip(carrying, entries.batch_of[carrying].tolist(), strict=True)
            ]
            one = edges[0]
            groups = {one: carrying} if edges.count(one) == len(edges) else _grouped(edges, carrying)
            for layout, chosen in groups.items():
                buckets = self._buckets(kind, layout)
                _make_room(buckets, entries.rows[chosen], start_ms)
                flat = chain.from_iterable(histograms[i].counts for i in chosen)
                counts = np.fromiter(flat, dtype=np.float64, count=len(chosen) * buckets.width).reshape(-1, buckets.width)
                buckets.append(entries.rows[chosen], entries.figures[chosen, 0], entries.figures[chosen, 1], counts)

    def _insert(self, entries: _Entries, i: int, waiting: list[_Waiting]) -> RefusedSample | None:
        """Enter one sample in its place in time, judged by the one before it."""
        series, row = self.series, int(entries.rows[i])
        at, started, counters = float(entries.figures[i, 0]), float(entries.figures[i, 1]), entries.figures[i, 2:5]
        if series.has(row, at):
            self.late_samples -= int(entries.late[i])
            return None
        count = int(series.count[row])
        slot = int(np.searchsorted(series.at[row, :count], at))
        sample, offset = entries.samples[i], int(entries.extras[OFFSET, i])
        fault = None
        if count >= SAMPLES_PER_INSTANCE_MAX:
            fault = BadSample("too_many_samples", f"more than {SAMPLES_PER_INSTANCE_MAX} samples of one instance", sample_bytes(sample))
        elif slot and _absurd(series, row, slot - 1, at, started, counters):
            fault = BadSample("absurd_rate", "a counter rose by more than 10^7 a second", sample_bytes(sample))
        if fault is not None:
            self.late_samples -= int(entries.late[i])
            return RefusedSample(offset, fault)
        series.insert(row, at, started, counters, entries.extras[:, i])
        layouts = waiting[int(entries.batch_of[i])].batch.layouts
        for kind, histogram in (("ttft", sample.ttft), ("tbt", sample.tbt)):
            if histogram is not None:
                self._buckets(kind, layouts[histogram.layout]).insert(row, at, started, np.array(histogram.counts))
        return None

    def _buckets(self, kind: str, edges: Edges) -> BucketSeries:
        """The series of one histogram and layout, with the rows of the table."""
        found = self.histograms[kind].get(edges)
        if found is None:
            found = self.histograms[kind][edges] = BucketSeries(width=len(edges) + 1)
        found.reserve(self.series.rows)
        return found

    def _forget_instances(self, before_ms: float) -> None:
        """Free the rows of instances last heard before `before_ms`, which no open window can need."""
        gone = np.flatnonzero((self.series.count > 0) & (self.series.last_at_all() < before_ms))
        if not len(gone):
            return
        self.series.clear(gone)
        for buckets in chain.from_iterable(each.values() for each in self.histograms.values()):
            buckets.clear(gone[gone < buckets.rows])
        for row in gone.tolist():
            del self._row_of[self._name_of.pop(row)]
            self._free.append(row)


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


def _without_twins(entries: _Entries) -> _Entries:
    """Only the first of samples of one instance and moment."""
    at = entries.figures[:, 0]
    twin = (entries.rows[1:] == entries.rows[:-1]) & (at[1:] == at[:-1])
    if not twin.any():
        return entries
    return entries.subset(np.append(True, ~twin))


def _grouped(edges: list[Edges], carrying: list[int]) -> dict[Edges, list[int]]:
    groups: dict[Edges, list[int]] = {}
    for layout, i in zip(edges, carrying, strict=True):
        groups.setdefault(layout, []).append(i)
    return groups


def _absurd(series: Series, row: int, slot: int, at: float, started: float, counters: Floats) -> bool:
    """Whether a counter rises from the sample in `slot` faster than any engine can."""
    before = series.values[row, slot]
    restarted = bool(other_process(series.started[row, slot : slot + 1], np.array([started]))[0])
    rise = np.where((counters < before) | restarted, counters, counters - before)
    return bool((rise > TOKENS_PER_MS_MAX * (at - float(series.at[row, slot]))).any())
