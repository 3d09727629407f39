"""One engine page → one InstanceSample: sums over engines and data-parallel ranks, one of equal tensor-parallel ranks.

Absent stays absent: a missing series, NaN, infinity and the sentinel -1 become null, never 0. Counters stay cumulative; rates
are made downstream from differences, with reset detection.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from heteroscale.contracts.names import GpuTypeName, InstanceName, RoleName
from heteroscale.contracts.telemetry import EngineState, Histogram, InstanceSample, Number
from heteroscale.telemetry.dcgm import GpuFigures
from heteroscale.telemetry.engines import Engine, Index, Reading
from heteroscale.telemetry.page import Labels, Page, Series, is_number

FRONTEND_ROLE: RoleName = "frontend"
REPEATED_RANKS = ("tp_rank", "pp_rank", "moe_ep_rank")  # each rank repeats what its data-parallel rank says
_START_TIME = "process_start_time_seconds"


class Identity(NamedTuple):
    """What a page does not say about its instance."""

    instance: InstanceName
    role: RoleName
    at_ms: int
    state: EngineState = EngineState.SERVING
    gpu_type: GpuTypeName | None = None
    gpus: int | None = None


class Read(NamedTuple):
    """A sample and the bucket edges (seconds) of its histograms, by layout name."""

    sample: InstanceSample
    layouts: dict[str, list[float]]


def read(page: Page, engine: Engine, identity: Identity, gpu: GpuFigures | None = None) -> Read:
    """The sample of a page of `engine`. A page that speaks for a pool gets the role `frontend`, outside the P and D roles."""
    index = Index(page, engine.prefix)
    ttft, tbt = _histogram(index, engine.ttft), _histogram(index, engine.tbt)
    sample = InstanceSample(
        instance=identity.instance,
        role=FRONTEND_ROLE if engine.pool else identity.role,
        state=identity.state,
        at_ms=identity.at_ms,
        gpu_type=identity.gpu_type,
        gpus=identity.gpus,
        started_at_ms=_started_at_ms(page),
        generation_tokens=_generation_tokens(index, engine),
        prompt_tokens=_sum(_first(index, engine.prompt_tokens)),
        cached_prompt_tokens=_sum(_first(index, engine.cached_prompt_tokens)),
        requests_finished=_sum(_first(index, engine.requests_finished)),
        running=_sum(_first(index, engine.running)),
        waiting=_sum(_first(index, engine.waiting)),
        kv_usage=_mean_ratio(_first(index, engine.kv_usage)),
        gpu_util=None if gpu is None else gpu.gpu_util,
        sm_active=None if gpu is None else gpu.sm_active,
        ttft=None if ttft is None else Histogram(layout="ttft", counts=ttft.counts, sum_s=ttft.sum_s),
        tbt=None if tbt is None else Histogram(layout="tbt", counts=tbt.counts, sum_s=tbt.sum_s),
    )
    layouts = {name: found.edges for name, found in (("ttft", ttft), ("tbt", tbt)) if found is not None}
    return Read(sample, layouts)


class _Buckets(NamedTuple):
    edges: list[float]
    counts: list[Number]
    sum_s: float | None


def _generation_tokens(index: Index, engine: Engine) -> Number | None:
    """The token counter; without one, first tokens + later tokens, where the engine observes each token."""
    counter = _first(index, engine.generation_tokens)
    if counter or not engine.per_token:
        return _sum(counter)
    first, later = (_sum(_first(index, _suffixed(readings, "_count"))) for readings in (engine.ttft, engine.tbt))
    return None if first is None or later is None else first + later


def _first(index: Index, readings: Iterable[Reading]) -> list[Series]:
    """The series of the first name that the page has: old and new names are never added."""
    for reading in readings:
        found = index.find(reading)
        if found:
            return _without_repeats(found)
    return []


def _suffixed(readings: Iterable[Reading], suffix: str) -> list[Reading]:
    return [Reading(reading.name + suffix, reading.where) for reading in readings]


def _without_repeats(found: Sequence[Series]) -> list[Series]:
    """One series of those that differ only in a repeated rank: the lowest."""
    chosen: dict[Labels, Series] = {}
    for series in sorted(found, key=_rank):
        chosen.setdefault(tuple(pair for pair in series.labels if pair[0] not in REPEATED_RANKS), series)
    return [chosen[labels] for labels in sorted(chosen)]


def _rank(series: Series) -> tuple[tuple[int, str], ...]:
    ranks = [series.label(name) or "" for name in REPEATED_RANKS]
    return tuple((len(rank), rank) for rank in ranks)


def _sum(found: Sequence[Series]) -> Number | None:
    """The total, or null if any part is not a number: a partial sum would look like a reset."""
    if not found or not all(is_number(series.value) for series in found):
        return None
    return _whole(math.fsum(series.value for series in found))


def _mean_ratio(found: Sequence[Series]) -> float | None:
    """Mean of those that are in 0..1; ratios are never summed."""
    usable = [series.value for series in found if is_number(series.value) and series.value <= 1]
    return math.fsum(usable) / len(usable) if usable else None


def _whole(value: float) -> Number:
    return int(value) if value.is_integer() else value


def _histogram(index: Index, readings: Iterable[Reading]) -> _Buckets | None:
    """The first histogram that the page has, summed bucket by bucket and made non-cumulative; null if it does not hold together."""
    for reading in readings:
        found = index.find(Reading(reading.name + "_bucket", reading.where))
        if found:
            total = _sum(_without_repeats(index.find(Reading(reading.name + "_count", reading.where))))
            sum_s = _sum(_without_repeats(index.find(Reading(reading.name + "_sum", reading.where))))
            return _buckets(_without_repeats(found), total, None if sum_s is None else float(sum_s))
    return None


def _buckets(found: Sequence[Series], total: Number | None, sum_s: float | None) -> _Buckets | None:
    curves: dict[Labels, dict[float, float]] = {}
    for series in found:
        edge = _edge(series)
        if edge is None or not is_number(series.value):
            return None
        curves.setdefault(tuple(pair for pair in series.labels if pair[0] != "le"), {})[edge] = series.value
    layouts = {tuple(sorted(edge for edge in curve if edge != math.inf)) for curve in curves.values()}
    if len(layouts) != 1:
        return None
    edges = list(layouts.pop())
    cumulative = [math.fsum(curve[edge] for curve in curves.values()) for edge in edges]
    if all(math.inf in curve for curve in curves.values()):
        cumulative.append(math.fsum(curve[math.inf] for curve in curves.values()))
    elif total is not None:
        cumulative.append(float(total))
    else:
        return None
    counts = [_whole(upper - lower) for lower, upper in zip([0.0, *cumulative], cumulative, strict=False)]
    return _Buckets(edges, counts, sum_s) if edges and min(counts) >= 0 else None


def _edge(series: Series) -> float | None:
    try:
        edge = float(series.label("le") or "")
    except ValueError:
        return None
    return None if math.isnan(edge) else edge


def _started_at_ms(page: Page) -> int | None:
    """The start of the process, newest if there are several (a wrapper and its engine)."""
    starts = [series.value for series in page.series.get(_START_TIME, ()) if is_number(series.value) and series.value > 0]
    return round(max(starts) * 1_000) if starts else None
