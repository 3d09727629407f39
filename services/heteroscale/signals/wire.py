"""Telemetry bytes to typed samples, bad values singled out.

One typed pass decodes and range-checks a whole record. Only a record that fails it is taken apart sample by sample, so that
one bad value costs its own sample and nothing else. Knows nothing of windows, offsets or topics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import astuple

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.telemetry import Tick

_WHOLE_MAX: Final = 2**53  # larger whole numbers a float could not hold; and sums of what is not larger never overflow
NotNegative: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=_WHOLE_MAX)]
Fraction: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
WholeMs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_WHOLE_MAX)]
Edges: TypeAlias = tuple[float, ...]
HISTOGRAMS: Final = ("ttft", "tbt")
_LAYOUT = attrgetter("layout")
_COUNTS = attrgetter("counts")


class WireHistogram(msgspec.Struct, gc=False):
    """contracts.telemetry.Histogram, range-checked while it is decoded."""

    layout: str
    counts: list[NotNegative]
    sum_s: NotNegative | None = None


class WireSample(msgspec.Struct, gc=False, kw_only=True):
    """contracts.telemetry.InstanceSample, range-checked while it is decoded; counters become floats (exact to 2^53).

    Fields stand in the order in which publishers write them, which is the quickest to decode.
    """

    instance: str
    role: str
    state: Literal["loading", "serving", "draining", "stopping"]  # an EngineState; plain strings hash faster
    node: str | None = None
    group: str | None = None
    gpu_type: str | None = None
    gpus: Annotated[int, msgspec.Meta(ge=0, le=_WHOLE_MAX)] | None = None
    at_ms: WholeMs
    started_at_ms: WholeMs | None = None
    generation_tokens: NotNegative | None = None
    prompt_tokens: NotNegative | None = None
    cached_prompt_tokens: NotNegative | None = None
    requests_finished: NotNegative | None = None
    running: NotNegative | None = None
    waiting: NotNegative | None = None
    kv_usage: Fraction | None = None
    gpu_util: Fraction | None = None
    sm_active: Fraction | None = None
    ttft: WireHistogram | None = None
    tbt: WireHistogram | None = None


FIELDS: Final = WireSample.__struct_fields__
WIDTH: Final = len(FIELDS)
PLACE_OF: Final = {name: place for place, name in enumerate(FIELDS)}


class WireSamples(msgspec.Struct, tag_field="kind", tag="samples"):
    """contracts.telemetry.Samples."""

    service: str
    samples: list[WireSample]
    layouts: dict[str, list[NotNegative]] = {}


class _Envelope(msgspec.Struct):
    """The part of a samples record that must hold for any of its samples to be usable."""

    kind: str
    service: str
    samples: list[msgspec.Raw]
    layouts: Any = None


class BadSample(NamedTuple):
    """A sample that cannot be used: a stable code, words for a person, its own bytes."""

    code: str
    message: str
    payload: bytes


class Buckets(NamedTuple):
    """The histograms of one kind and layout in a record."""

    kind: str
    edges: Edges
    of: Sequence[int]  # positions among the samples
    counts: list[list[float]]  # one more than edges, each


class Batch(NamedTuple):
    """The usable samples of one record, and what was refused of it.

    The samples are taken apart: numbers are turned into columns from here on, and objects that are let go at once cost the least.
    """

    service: str
    fields: list[Any]  # sample after sample, WIDTH each, in the order of FIELDS
    buckets: list[Buckets]
    bad: list[BadSample]

    @property
    def size(self) -> int:
        """How many samples there are."""
        return len(self.fields) // WIDTH

    def column(self, name: str) -> list[Any]:
        """One field of all samples."""
        return self.fields[PLACE_OF[name] :: WIDTH]

    def sample(self, position: int) -> WireSample:
        """One sample, whole again."""
        return WireSample(**dict(zip(FIELDS, self.fields[position * WIDTH : (position + 1) * WIDTH], strict=True)))

    def without(self, positions: Collection[int]) -> Batch:
        """The samples but for some."""
        kept = [position for position in range(self.size) if position not in positions]
        moved = {position: at for at, position in enumerate(kept)}
        fields = [field for position in kept for field in self.fields[position * WIDTH : (position + 1) * WIDTH]]
        buckets: list[Buckets] = []
        for kind, edges, of, counts in self.buckets:
            stay = [at for at, position in enumerate(of) if position in moved]
            buckets.append(Buckets(kind, edges, [moved[of[at]] for at in stay], [counts[at] for at in stay]))
        return self._replace(fields=fields, buckets=buckets)


_record = msgspec.json.Decoder(WireSamples | Tick)
_envelope = msgspec.json.Decoder(_Envelope)
_sample = msgspec.json.Decoder(WireSample)


def read(payload: bytes) -> Batch | Tick:
    """Decode one telemetry.v1 value. Raises Rejected (`undecodable`, `invalid`) if nothing of it can be used."""
    try:
        record = _record.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _salvage(payload, error)
    if isinstance(record, Tick):
        if not 0 <= record.at_ms <= _WHOLE_MAX:
            raise Rejected("invalid", "a tick before the epoch" if record.at_ms < 0 else "a tick beyond 2^53 ms")
        return record
    layouts = {name: edges for name, stated in record.layouts.items() if (edges := _edges(tuple(stated)))}
    return _batch(record.service, record.samples, layouts, [])


def _batch(service: str, samples: list[WireSample], layouts: Mapping[str, Edges], bad: list[BadSample]) -> Batch:
    """Samples taken apart; those whose histograms cannot be read join the bad."""
    fields: list[Any] = []
    for sample in samples:
        fields += astuple(sample)
    buckets: list[Buckets] = []
    for kind in HISTOGRAMS:
        histograms = fields[PLACE_OF[kind] :: WIDTH]
        if not any(histograms):
            continue
        found = _buckets(kind, histograms, layouts)
        if found is None:
            faults = [_histogram_fault(sample, layouts) for sample in samples]
            sound = [sample for sample, fault in zip(samples, faults, strict=True) if fault is None]
            return _batch(service, sound, layouts, [*bad, *(fault for fault in faults if fault is not None)])
        buckets += found
    return Batch(service, fields, buckets, bad)


def _buckets(kind: str, histograms: list[WireHistogram | None], layouts: Mapping[str, Edges]) -> list[Buckets] | None:
    """The histograms of one kind by layout; null if one of them cannot be read."""
    if all(histograms):
        names = list(map(_LAYOUT, histograms))
        if names.count(names[0]) == len(names):  # nearly every record
            alike = _alike(kind, range(len(names)), names[0], list(map(_COUNTS, histograms)), layouts)
            return None if alike is None else [alike]
    of_layout: dict[str, list[int]] = {}
    for position, histogram in enumerate(histograms):
        if histogram is not None:
            of_layout.setdefault(histogram.layout, []).append(position)
    found: list[Buckets] = []
    for name, of in of_layout.items():
        group = _alike(kind, of, name, [_COUNTS(histograms[position]) for position in of], layouts)
        if group is None:
            return None
        found.append(group)
    return found


def _alike(kind: str, of: Sequence[int], layout: str, counts: list[list[float]], layouts: Mapping[str, Edges]) -> Buckets | None:
    """Histograms of one layout; null if it is not stated, or one of them has another number of buckets."""
    edges = layouts.get(layout)
    return None if edges is None or set(map(len, counts)) != {len(edges) + 1} else Buckets(kind, edges, of, counts)


def sample_bytes(sample: WireSample) -> bytes:
    """A decoded sample as JSON again, for the dead-letter topic."""
    return msgspec.json.encode(sample)


def _histogram_fault(sample: WireSample, layouts: Mapping[str, Edges]) -> BadSample | None:
    """Why a sample's histograms cannot be read, or null."""
    for histogram in (sample.ttft, sample.tbt):
        if histogram is None:
            continue
        edges = layouts.get(histogram.layout)
        if edges is None:
            return BadSample("unknown_layout", f"layout {histogram.layout!r} is not stated, or not ascending", sample_bytes(sample))
        if len(histogram.counts) != len(edges) + 1:
            message = f"{len(histogram.counts)} counts for {len(edges)} edges; there must be one more"
            return BadSample("bucket_count", message, sample_bytes(sample))
    return None


@lru_cache(maxsize=1_024)
def _edges(stated: Edges) -> Edges | None:
    """Edges that can be used: at least one, strictly ascending, finite. Equal ones are one and the same object: quick to compare."""
    return stated if stated and all(a < b for a, b in pairwise(stated)) and math.isfinite(stated[-1]) else None


def _salvage(payload: bytes, error: Exception) -> Batch:
    """Take a record apart that failed the one-pass decode."""
    raws = _raw_samples(payload, error)
    samples: list[WireSample] = []
    bad: list[BadSample] = []
    for raw in raws.samples:
        try:
            samples.append(_sample.decode(raw))  # what is no JSON number (NaN, Infinity) fails here, and only here
        except (msgspec.DecodeError, ValueError) as fault:
            bad.append(BadSample("invalid_sample", str(fault), bytes(raw)))
    return _batch(raws.service, samples, _usable_layouts(raws.layouts), bad)


def _raw_samples(payload: bytes, error: Exception) -> _Envelope:
    """The record with its samples unread. JSON's NaN and Infinity, which some publishers write, are let through here."""
    try:
        envelope = _envelope.decode(payload)
    except msgspec.ValidationError as fault:
        raise Rejected("invalid", str(error)) from fault
    except RecursionError as fault:
        raise Rejected("undecodable", "nested too deeply") from fault
    except (msgspec.DecodeError, UnicodeDecodeError):
        envelope = _raw_samples_of_loose_json(payload, error)
    if envelope.kind != "samples":
        raise Rejected("invalid", str(error)) from error
    return envelope


def _raw_samples_of_loose_json(payload: bytes, error: Exception) -> _Envelope:
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as fault:
        raise Rejected("undecodable", str(error)) from fault
    match document:
        case {"kind": str(kind), "service": str(service), "samples": list(samples)} if _is_text(service):
            raws = [msgspec.Raw(json.dumps(sample).encode()) for sample in samples]
            return _Envelope(kind=kind, service=service, samples=raws, layouts=document.get("layouts"))
        case _:
            raise Rejected("invalid", str(error)) from error


def _is_text(name: str) -> bool:
    """Whether a name can be written again: half of a surrogate pair, which loose JSON lets through, cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _usable_layouts(layouts: object) -> dict[str, Edges]:
    """The layouts that can be used; samples that need the others are refused one by one."""
    if not isinstance(layouts, dict):
        return {}
    usable: dict[str, Edges] = {}
    for name, stated in layouts.items():
        numbers = isinstance(stated, list) and all(type(e) in (int, float) and 0 <= e <= _WHOLE_MAX for e in stated)
        edges = _edges(tuple(map(float, stated))) if isinstance(name, str) and numbers else None
        if edges is not None:
            usable[name] = edges
    return usable
