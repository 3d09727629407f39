"""Decoded samples become columns while they are still warm in the cache; the columns wait until a window is about to close.

Decoded objects are let go here: what waits costs a few bytes a figure. Knows names, rows and faces of instances, nothing of time.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np

from heteroscale.contracts.names import GpuTypeName, InstanceName, RoleName
from heteroscale.signals.series import Floats, Ints, Mask
from heteroscale.signals.wire import COUNTS_OF, HISTOGRAMS, Batch, Edges, WireSample

CHUNK: Final = 256  # samples turned into columns in one go: enough to be cheap, few enough to stay in the cache
FIGURES: Final = (
    "at_ms", "started_at_ms", "generation_tokens", "prompt_tokens", "cached_prompt_tokens",
    "kv_usage", "gpu_util", "sm_active", "running", "waiting",
)  # fmt: skip
GENERATION, PROMPT, CACHED = range(3)  # columns of the counters
KV_USAGE, GPU_UTIL, SM_ACTIVE, RUNNING, WAITING, FACE, OFFSET = range(7)  # rows of the extras
EXTRAS: Final = 7
_WIDTH: Final = len(FIGURES)
_EXACT: Final = float(2**40)  # gauges are held in steps of 2^-40, so that their sums are exact in any order
_PLAIN = attrgetter(*FIGURES)
_FACE = attrgetter("role", "gpu_type", "gpus", "state")
_NAME = attrgetter("instance")


class Face(NamedTuple):
    """What a sample says of its instance besides figures."""

    role: RoleName
    gpu_type: GpuTypeName | None
    gpus: int | None
    state: str  # an EngineState's value


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
    """Samples as columns, in order of arrival."""

    rows: Ints  # [n]
    figures: Floats  # [n, len(FIGURES)]
    extras: Floats  # [EXTRAS, n]
    late: Mask  # [n]
    arrival: Ints  # [n] positions in `arrivals`
    arrivals: list[Arrival]
    buckets: list[BucketColumns]


class Directory:
    """Rows of instances and numbers of faces, given as they appear."""

    def __init__(self) -> None:
        self.faces: list[Face] = []
        self.row_of: dict[InstanceName, int] = {}
        self._name_of: dict[int, InstanceName] = {}
        self._free: list[int] = []
        self._face_of: dict[tuple[object, ...], int] = {}

    @property
    def rows_used(self) -> int:
        """Rows below this number are, or were, given to an instance."""
        return len(self.row_of) + len(self._free)

    def rows(self, samples: list[WireSample]) -> list[int]:
        """The row of each sample's instance."""
        found = list(map(self.row_of.get, map(_NAME, samples)))
        if None in found:
            return [self._row(sample.instance) if row is None else row for row, sample in zip(found, samples, strict=True)]
        return found  # type: ignore[return-value] # no null is left

    def face_numbers(self, samples: list[WireSample]) -> list[int]:
        """The number of each sample's face."""
        faces = list(map(_FACE, samples))
        found = list(map(self._face_of.get, faces))
        if None in found:
            return [self._face(face) if number is None else number for number, face in zip(found, faces, strict=True)]
        return found  # type: ignore[return-value] # no null is left

    def free(self, rows: list[int]) -> None:
        """These rows' instances are forgotten."""
        for row in rows:
            del self.row_of[self._name_of.pop(row)]
            self._free.append(row)

    def _row(self, name: InstanceName) -> int:
        row = self.row_of.get(name)
        if row is None:
            row = self._free.pop() if self._free else len(self.row_of)
            self.row_of[name] = row
            self._name_of[row] = name
        return row

    def _face(self, face: tuple[RoleName, GpuTypeName | None, int | None, str]) -> int:
        number = self._face_of.get(face)
        if number is None:
            number = self._face_of[face] = len(self.faces)
            self.faces.append(Face(*face))
        return number


class Intake:
    """What has arrived since the last window closed."""

    def __init__(self, directory: Directory) -> None:
        self.count = 0
        self._directory = directory
        self._chunks: list[Columns] = []
        self._warm: list[tuple[Batch, Arrival]] = []
        self._warm_count = 0

    def add(self, batch: Batch, arrival: Arrival) -> None:
        """Take a record's samples."""
        self.count += len(batch.samples)
        self._warm.append((batch, arrival))
        self._warm_count += len(batch.samples)
        if self._warm_count >= CHUNK:
            self._to_columns()

    def take(self) -> Columns | None:
        """All that has arrived, as columns; nothing is left behind. Null if there is nothing."""
        self._to_columns()
        chunks, self._chunks, self.count = self._chunks, [], 0
        if len(chunks) <= 1:
            return chunks[0] if chunks else None
        starts = np.cumsum([0, *(len(chunk.rows) for chunk in chunks[:-1])])
        arrivals = np.cumsum([0, *(len(chunk.arrivals) for chunk in chunks[:-1])])
        return Columns(
            rows=np.concatenate([chunk.rows for chunk in chunks]),
            figures=np.concatenate([chunk.figures for chunk in chunks]),
            extras=np.concatenate([chunk.extras for chunk in chunks], axis=1),
            late=np.concatenate([chunk.late for chunk in chunks]),
            arrival=np.concatenate([chunk.arrival + first for chunk, first in zip(chunks, arrivals, strict=True)]),
            arrivals=list(chain.from_iterable(chunk.arrivals for chunk in chunks)),
            buckets=_joined(
                [each._replace(of=each.of + first) for chunk, first in zip(chunks, starts, strict=True) for each in chunk.buckets]
            ),
        )

    def _to_columns(self) -> None:
        if not self._warm:
            return
        warm, self._warm, self._warm_count = self._warm, [], 0
        samples = warm[0][0].samples if len(warm) == 1 else list(chain.from_iterable(batch.samples for batch, _ in warm))
        count = len(samples)
        lengths = [len(batch.samples) for batch, _ in warm]
        arrival = np.repeat(np.arange(len(warm)), lengths)
        figures = np.fromiter(chain.from_iterable(map(_PLAIN, samples)), dtype=np.float64, count=count * _WIDTH).reshape(count, _WIDTH)
        extras = np.empty((EXTRAS, count))
        extras[:FACE] = figures[:, 5:].T
        extras[:RUNNING] = np.rint(extras[:RUNNING] * _EXACT) / _EXACT
        extras[FACE] = self._directory.face_numbers(samples)
        extras[OFFSET] = np.array([float(each.offset) for _, each in warm])[arrival]
        late = figures[:, 0] < np.array([each.watermark_ms for _, each in warm])[arrival]
        rows = np.array(self._directory.rows(samples), dtype=np.int64)
        buckets = _buckets(warm) if any(batch.layouts for batch, _ in warm) else []
        self._chunks.append(Columns(rows, figures, extras, late, arrival, [each for _, each in warm], buckets))


def _buckets(warm: list[tuple[Batch, Arrival]]) -> list[BucketColumns]:
    """The histograms of some records' samples by kind and layout."""
    found: list[BucketColumns] = []
    for kind in HISTOGRAMS:
        groups: dict[Edges, tuple[list[int], list[list[float]]]] = {}
        first = 0
        for batch, _ in warm:
            edges = batch.alike.get(kind)
            if edges is None:
                _sort_out(kind, batch, first, groups)
            else:
                of, counts = groups.setdefault(edges, ([], []))
                of.extend(range(first, first + len(batch.samples)))
                counts.extend(map(COUNTS_OF[kind], batch.samples))
            first += len(batch.samples)
        for edges, (of, counts) in groups.items():
            width = len(edges) + 1
            flat = np.fromiter(chain.from_iterable(counts), dtype=np.float64, count=len(of) * width)
            found.append(BucketColumns(kind, edges, np.array(of), flat.reshape(-1, width)))
    return found


def _sort_out(kind: str, batch: Batch, first: int, groups: dict[Edges, tuple[list[int], list[list[float]]]]) -> None:
    """Samples of one record that do not all carry the same layout, one by one; `first` is the position of the record's first."""
    for position, histogram in enumerate(map(attrgetter(kind), batch.samples), start=first):
        if histogram is not None:
            of, counts = groups.setdefault(batch.layouts[histogram.layout], ([], []))
            of.append(position)
            counts.append(histogram.counts)


def _joined(parts: list[BucketColumns]) -> list[BucketColumns]:
    """Parts of the same kind and layout put together."""
    groups: dict[tuple[str, Edges], list[BucketColumns]] = {}
    for part in parts:
        groups.setdefault((part.kind, part.edges), []).append(part)
    return [
        BucketColumns(kind, edges, np.concatenate([each.of for each in group]), np.concatenate([each.counts for each in group]))
        for (kind, edges), group in groups.items()
    ]
