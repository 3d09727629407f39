"""Telemetry bytes to typed samples, bad values singled out.

One typed pass decodes and range-checks a whole record. Only a record that fails it is taken apart sample by sample, so that
one bad value costs its own sample and nothing else. Knows nothing of windows, offsets or topics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.telemetry import Tick

NotNegative: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Fraction: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
WholeMs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # larger ones a float could not hold
Edges: TypeAlias = tuple[float, ...]
HISTOGRAMS: Final = ("ttft", "tbt")
HISTOGRAM_OF: Final = {kind: attrgetter(kind) for kind in HISTOGRAMS}
_TTFT, _TBT = HISTOGRAM_OF.values()
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
    gpus: Annotated[int, msgspec.Meta(ge=0)] | None = None
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


class Alike(NamedTuple):
    """A histogram that all samples of a record carry in one and the same layout."""

    edges: Edges
    counts: list[list[float]]  # a sample each


class Batch(NamedTuple):
    """The usable samples of one record, its bucket layouts, and what was refused.

    `alike` has the histograms (`ttft`, `tbt`) that need not be looked at sample by sample.
    """

    service: str
    samples: list[WireSample]
    layouts: Mapping[str, Edges]
    bad: list[BadSample]
    alike: Mapping[str, Alike] = {}


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
        if record.at_ms < 0:
            raise Rejected("invalid", "a tick before the epoch")
        return record
    if not record.layouts:
        return _without_layouts(record)
    layouts = {name: edges for name, stated in record.layouts.items() if (edges := _edges(tuple(stated)))}
    alike = {kind: found for kind in HISTOGRAMS if (found := _alike(kind, record.samples, layouts)) is not None}
    if len(alike) == len(HISTOGRAMS):
        return Batch(record.service, record.samples, layouts, [], alike)
    samples: list[WireSample] = []
    bad: list[BadSample] = []
    for sample in record.samples:
        fault = _histogram_fault(sample, layouts)
        if fault is None:
            samples.append(sample)
        else:
            bad.append(fault)
    return Batch(record.service, samples, layouts, bad, {} if bad else alike)


def _alike(kind: str, samples: list[WireSample], layouts: Mapping[str, Edges]) -> Alike | None:
    """The histograms, if every sample carries this one, soundly, in one layout. At C speed: this is nearly every record."""
    histograms = list(map(HISTOGRAM_OF[kind], samples))
    if not histograms or None in histograms:
        return None
    names = list(map(_LAYOUT, histograms))
    edges = layouts.get(names[0])
    if edges is None or names.count(names[0]) < len(names):
        return None
    counts = list(map(_COUNTS, histograms))
    return Alike(edges, counts) if set(map(len, counts)) == {len(edges) + 1} else None


def sample_bytes(sample: WireSample) -> bytes:
    """A decoded sample as JSON again, for the dead-letter topic."""
    return msgspec.json.encode(sample)


def _without_layouts(record: WireSamples) -> Batch:
    """The fast way: no layouts, so no sample may carry a histogram."""
    if not any(map(_TTFT, record.samples)) and not any(map(_TBT, record.samples)):
        return Batch(record.service, record.samples, {}, [])
    faults = [_histogram_fault(sample, {}) for sample in record.samples]
    samples = [sample for sample, fault in zip(record.samples, faults, strict=True) if fault is None]
    return Batch(record.service, samples, {}, [fault for fault in faults if fault is not None])


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
    edges = _usable_layouts(raws.layouts)
    samples: list[WireSample] = []
    bad: list[BadSample] = []
    for raw in raws.samples:
        try:
            sample = _read_sample(bytes(raw))
        except (msgspec.DecodeError, ValueError, RecursionError) as fault:
            bad.append(BadSample("invalid_sample", str(fault), bytes(raw)))
            continue
        misfit = _histogram_fault(sample, edges)
        if misfit is None:
            samples.append(sample)
        else:
            bad.append(misfit)
    return Batch(raws.service, samples, edges, bad)


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
        case {"kind": str(kind), "service": str(service), "samples": list(samples)}:
            raws = [msgspec.Raw(json.dumps(sample).encode()) for sample in samples]
            return _Envelope(kind=kind, service=service, samples=raws, layouts=document.get("layouts"))
        case _:
            raise Rejected("invalid", str(error)) from error


def _read_sample(raw: bytes) -> WireSample:
    """One sample on its own. A value that is no JSON number (NaN, Infinity) fails here, and only here."""
    return _sample.decode(raw)


def _usable_layouts(layouts: object) -> dict[str, Edges]:
    """The layouts that can be used; samples that need the others are refused one by one."""
    if not isinstance(layouts, dict):
        return {}
    usable: dict[str, Edges] = {}
    for name, stated in layouts.items():
        numbers = isinstance(stated, list) and all(isinstance(e, int | float) and not isinstance(e, bool) and e >= 0 for e in stated)
        edges = _edges(tuple(map(float, stated))) if isinstance(name, str) and numbers else None
        if edges is not None:
            usable[name] = edges
    return usable
