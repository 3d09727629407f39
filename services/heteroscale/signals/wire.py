"""Telemetry bytes to typed samples, bad values singled out.

One typed pass decodes and range-checks a whole record. Only a record that fails it is taken apart sample by sample, so that
one bad value costs its own sample and nothing else. Knows nothing of windows, offsets or topics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.telemetry import Tick

NotNegative: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Fraction: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
WholeMs: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Edges: TypeAlias = tuple[float, ...]
HISTOGRAMS: Final = ("ttft", "tbt")
LAYOUT_OF: Final = {kind: attrgetter(f"{kind}.layout") for kind in HISTOGRAMS}
COUNTS_OF: Final = {kind: attrgetter(f"{kind}.counts") for kind in HISTOGRAMS}


class WireHistogram(msgspec.Struct, gc=False):
    """contracts.telemetry.Histogram, range-checked while it is decoded."""

    layout: str
    counts: list[NotNegative]
    sum_s: NotNegative | None = None


class WireSample(msgspec.Struct, gc=False):
    """contracts.telemetry.InstanceSample, range-checked while it is decoded; counters become floats (exact to 2^53)."""

    instance: str
    role: str
    state: Literal["loading", "serving", "draining", "stopping"]  # an EngineState; plain strings hash faster
    at_ms: WholeMs
    node: str | None = None
    group: str | None = None
    gpu_type: str | None = None
    gpus: Annotated[int, msgspec.Meta(ge=0)] | None = None
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


class Batch(NamedTuple):
    """The usable samples of one record, its bucket layouts, and what was refused.

    `alike` names the histograms (`ttft`, `tbt`) that all of the samples carry in one and the same layout, and its edges.
    """

    service: str
    samples: list[WireSample]
    layouts: Mapping[str, Edges]
    bad: list[BadSample]
    alike: Mapping[str, Edges] = {}


_record = msgspec.json.Decoder(WireSamples | Tick)
_envelope = msgspec.json.Decoder(_Envelope)
_sample = msgspec.json.Decoder(WireSample)


def read(payload: bytes) -> Batch | Tick:
    """Decode one telemetry.v1 value. Raises Rejected (`undecodable`, `invalid`) if nothing of it can be used."""
    try:
        record = _record.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _salvage(payload, error)
    if isinstance(record, Tick):
        if record.at_ms < 0:
            raise Rejected("invalid", "a tick before the epoch")
        return record
    if not record.layouts:
        return _without_layouts(record)
    layouts = {name: tuple(edges) for name, edges in record.layouts.items() if _ascending(edges)}
    alike = {kind: edges for kind in HISTOGRAMS if (edges := _alike(kind, record.samples, layouts)) is not None}
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
    return Batch(record.service, samples, layouts, bad, alike)


def _alike(kind: str, samples: list[WireSample], layouts: Mapping[str, Edges]) -> Edges | None:
    """The edges, if every sample carries this histogram, soundly, in one layout. At C speed: this is nearly every record."""
    try:
        names = set(map(LAYOUT_OF[kind], samples))
        sizes = set(map(len, map(COUNTS_OF[kind], samples)))
    except AttributeError:  # one of them carries none
        return None
    edges = layouts.get(names.pop()) if len(names) == 1 else None
    return edges if edges is not None and sizes == {len(edges) + 1} else None


def sample_bytes(sample: WireSample) -> bytes:
    """A decoded sample as JSON again, for the dead-letter topic."""
    return msgspec.json.encode(sample)


def _without_layouts(record: WireSamples) -> Batch:
    """The fast way: no layouts, so no sample may carry a histogram."""
    faults = [_histogram_fault(s, {}) for s in record.samples if s.ttft is not None or s.tbt is not None]
    if not faults:
        return Batch(record.service, record.samples, {}, [])
    samples = [s for s in record.samples if s.ttft is None and s.tbt is None]
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


def _ascending(edges: list[float]) -> bool:
    """Whether edges are usable: at least one, strictly ascending, finite."""
    return bool(edges) and all(a < b for a, b in pairwise(edges)) and math.isfinite(edges[-1])


def _salvage(payload: bytes, error: Exception) -> Batch:
    """Take a record apart that failed the one-pass decode."""
    raws = _raw_samples(payload, error)
    edges = {name: tuple(map(float, each)) for name, each in _usable_layouts(raws.layouts).items()}
    samples: list[WireSample] = []
    bad: list[BadSample] = []
    for raw in raws.samples:
        try:
            sample = _read_sample(bytes(raw))
        except (msgspec.DecodeError, ValueError) as fault:
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


def _usable_layouts(layouts: object) -> dict[str, list[float]]:
    """The layouts that can be used; samples that need the others are refused one by one."""
    if not isinstance(layouts, dict):
        return {}
    usable: dict[str, list[float]] = {}
    for name, edges in layouts.items():
        numbers = isinstance(edges, list) and all(isinstance(e, int | float) and not isinstance(e, bool) and e >= 0 for e in edges)
        if isinstance(name, str) and numbers and _ascending(edges):
            usable[name] = edges
    return usable
