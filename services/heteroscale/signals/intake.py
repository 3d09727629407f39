"""Decoded samples become columns while they are still warm in the cache; the columns wait until a window is about to close.

Decoded objects are let go here: what waits costs a few bytes a figure. Knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heteroscale.signals import wire
from heteroscale.signals.directory import Directory
from heteroscale.signals.packing import FLOATS, WHOLE, grown, pack_columns, pack_lists
from heteroscale.signals.series import Floats, Ints, Mask
from heteroscale.signals.wire import Batch, Edges

CHUNK: Final = 512  # samples turned into columns in one go: enough to be cheap, few enough to stay in the cache
BUCKETS_CHUNK: Final = 48  # the same of histograms, which are larger
SLACK: Final = 4  # buffers this many times larger than what they hold are given back
FIGURES: Final = (
    "at_ms", "started_at_ms", "generation_tokens", "prompt_tokens", "cached_prompt_tokens",
    "kv_usage", "gpu_util", "sm_active", "running", "waiting",
)  # fmt: skip
AT, STARTED = range(2)  # rows of the figures
COUNTERS: Final = slice(2, 5)
GENERATION, PROMPT, CACHED = range(3)  # columns of the counters
_GAUGES: Final = 5  # from here on a figure is one of the extras
KV_USAGE, GPU_UTIL, SM_ACTIVE, RUNNING, WAITING, FACE, OFFSET = range(7)  # rows of the extras
EXTRAS: Final = 7
_WIDTH: Final = _GAUGES + EXTRAS
_SHARES: Final = slice(_GAUGES + KV_USAGE, _GAUGES + RUNNING)
_EXACT: Final = float(2**40)  # gauges are held in steps of 2^-40, so that their sums are exact in any order
_FIGURES: Final = tuple(map(wire.PLACE_OF.__getitem__, FIGURES))
_IDENTITY: Final = tuple(map(wire.PLACE_OF.__getitem__, ("instance", "role", "gpu_type", "gpus", "state")))


class Arrival(NamedTuple):
    """A record as it came."""

    offset: int
    watermark_ms: float  # -inf before the first tick
    payload: bytes


class BucketColumns(NamedTuple):
    """The histograms of one kind and layout among some samples: which samples carry them, and their counts."""

    kind: str
    edges: Edges
    of: Ints  # [m] positions among the samples
    counts: Floats  # [m, buckets]


class Columns(NamedTuple):
    """Samples as columns, in order of arrival. Good until the next sample is taken in."""

    rows: Ints  # [n]
    figures: Floats  # [5 + EXTRAS, n]: two times, three counters, the extras
    late: Mask  # [n]
    arrival: Ints  # [n] positions in `arrivals`
    arrivals: list[Arrival]
    buckets: list[BucketColumns]


class Intake:
    """What has arrived since the last window closed."""

    def __init__(self, directory: Directory) -> None:
        self.count = 0
        self._directory = directory
        self._fields: list[Any] = []  # of the samples that are not columns yet, as in a Batch
        self._arrivals: list[Arrival] = []
        self._lengths: list[int] = []  # samples of each arrival
        self._recorded = 0  # arrivals whose samples are columns
        self._filled = 0  # of the buffers
        self._figures = np.empty((_WIDTH, CHUNK))
        self._seats = np.empty(CHUNK, dtype=np.int64)
        self._buckets: dict[tuple[str, Edges], _BucketBuffer] = {}

    @property
    def bytes_held(self) -> int:
        """Memory of the buffers."""
        return self._figures.nbytes + self._seats.nbytes + sum(each.bytes_held for each in self._buckets.values())

    def add(self, batch: Batch, arrival: Arrival) -> None:
        """Take a record's samples."""
        begin = len(self._fields)
        self._fields += batch.fields
        self._arrivals.append(arrival)
        self._lengths.append(batch.size)
        for kind, edges, of, counts in batch.buckets:
            buffer = self._buckets.get((kind, edges))
            if buffer is None:
                buffer = self._buckets[kind, edges] = _BucketBuffer(len(edges) + 1)
            first = self.count
            self._fields[begin + wire.PLACE_OF[kind] :: wire.WIDTH] = [None] * batch.size  # let go while warm; the counts are kept
            buffer.add(range(first + of.start, first + of.stop) if isinstance(of, range) else [first + each for each in of], counts)
        self.count += batch.size
        if self.count - self._filled >= CHUNK:
            self._to_columns()

    def take(self) -> Columns | None:
        """All that has arrived, as columns; nothing is left behind. Null if there is nothing."""
        self._to_columns()
        if not self.count:
            return None
        arrivals, self._arrivals = self._arrivals, []
        lengths, self._lengths = self._lengths, []
        figures = self._figures[:, : self.count]
        rows, figures[_GAUGES + FACE] = self._directory.look_up(self._seats[: self.count])
        arrival = np.repeat(np.arange(len(arrivals)), lengths)
        figures[_GAUGES + OFFSET] = np.repeat([float(each.offset) for each in arrivals], lengths)
        shares = figures[_SHARES]
        np.multiply(shares, _EXACT, out=shares)
        np.rint(shares, out=shares)
        np.divide(shares, _EXACT, out=shares)
        late = figures[AT] < np.repeat([each.watermark_ms for each in arrivals], lengths)
        self._buckets = {key: buffer for key, buffer in self._buckets.items() if buffer.count}
        buckets = [BucketColumns(kind, edges, *buffer.take()) for (kind, edges), buffer in self._buckets.items()]
        if self._figures.shape[1] > SLACK * max(self.count, CHUNK):  # after a surge
            self._figures, self._seats = _emptied(self._figures, 2 * self.count), _emptied(self._seats, 2 * self.count)
        self.count = self._filled = self._recorded = 0
        return Columns(rows, figures, late, arrival, arrivals, buckets)

    def _to_columns(self) -> None:
        if not self._fields:
            return
        fields, self._fields = self._fields, []
        first, self._filled = self._filled, self.count
        self._reserve(self.count)
        figures = self._figures[:, first : self.count]
        columns = [fields[place :: wire.WIDTH] for place in _FIGURES]
        pack_columns(columns[: COUNTERS.start], figures[: COUNTERS.start], WHOLE)
        pack_columns(columns[COUNTERS.start :], figures[COUNTERS.start : len(columns)], FLOATS)
        lengths, self._recorded = self._lengths[self._recorded :], len(self._lengths)
        self._seats[first : self.count] = self._directory.seats(lengths, *(fields[place :: wire.WIDTH] for place in _IDENTITY))

    def _reserve(self, count: int) -> None:
        room = self._figures.shape[1]
        if count > room:
            self._figures = grown(self._figures, max(count, 2 * room))
            self._seats = grown(self._seats, max(count, 2 * room))


class _BucketBuffer:
    """Histograms of one kind and layout, as they come."""

    def __init__(self, width: int) -> None:
        self._filled = 0  # of the buffers
        self._of = np.empty(16, dtype=np.int64)
        self._counts = np.empty((16, width))
        self._waiting_of: list[int] = []
        self._waiting: list[list[float]] = []

    @property
    def count(self) -> int:
        """How many there are."""
        return self._filled + len(self._waiting)

    @property
    def bytes_held(self) -> int:
        """Memory of the buffers."""
        return self._of.nbytes + self._counts.nbytes

    def add(self, of: Iterable[int], counts: list[list[float]]) -> None:
        """Counts of the samples at these positions."""
        self._waiting_of += of
        self._waiting += counts
        if len(self._waiting) >= BUCKETS_CHUNK:
            self._to_columns()

    def take(self) -> tuple[Ints, Floats]:
        """Positions and counts; the buffer is empty then."""
        self._to_columns()
        of, counts = self._of[: self._filled], self._counts[: self._filled]
        if len(self._of) > SLACK * max(self._filled, CHUNK):
            self._of, self._counts = _emptied(self._of, 2 * self._filled), np.empty((2 * self._filled, counts.shape[1]))
        self._filled = 0
        return of, counts

    def _to_columns(self) -> None:
        if not self._waiting:
            return
        first, self._filled = self._filled, self.count
        if self._filled > len(self._of):
            room = max(self._filled, 2 * len(self._of))
            self._of, counts_before = grown(self._of, room), self._counts
            self._counts = np.empty((room, counts_before.shape[1]))
            self._counts[:first] = counts_before[:first]
        self._of[first : self._filled] = self._waiting_of
        pack_lists(self._waiting, self._counts[first : self._filled])
        self._waiting_of, self._waiting = [], []


def _emptied(array: NDArray[Any], room: int) -> NDArray[Any]:
    """Another one with less room along the last axis."""
    return np.empty((*array.shape[:-1], room), dtype=array.dtype)
