"""One window of one service from its table: counts, rates, means and quantiles, as 2-contracts' rules say.

Pure and read-only. Sums are exact (`sums`) or over exactly representable steps, so neither the order of instances nor how
records were batched shows in the bytes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from heteroscale.contracts.names import GpuTypeName, RoleName
from heteroscale.contracts.signals import GpuTypeSignal, InstanceCounts, Quantiles, RoleSignal
from heteroscale.contracts.telemetry import EngineState
from heteroscale.signals import rises
from heteroscale.signals.intake import CACHED, FACE, GENERATION, GPU_UTIL, KV_USAGE, OFFSET, PROMPT, RUNNING, SM_ACTIVE, WAITING
from heteroscale.signals.quantiles import quantiles_ms
from heteroscale.signals.rises import Bounds, Rise, Span
from heteroscale.signals.series import Floats, Ints, Mask, Series, any_column, slots_where, taken, together
from heteroscale.signals.sums import exact_sum
from heteroscale.signals.table import ServiceTable
from heteroscale.signals.timeline import Parameters
from heteroscale.signals.wire import Edges

USABLE_SHARE: Final = 0.8
_STEP: Final = float(2**20)  # bucket shares are summed in steps of 2^-20 observations: exact in any order
_BLOCK_BUCKETS: Final = 16_384  # bucket counts looked at in one go: they stay in the cache
_DIGITS: Final = 6
_STATES: Final = tuple(state.value for state in (EngineState.LOADING, EngineState.SERVING, EngineState.DRAINING, EngineState.STOPPING))


class Closed(NamedTuple):
    """What a window says, and the lowest offset that it came from."""

    roles: dict[RoleName, RoleSignal]
    first_offset: int | None


class _View(NamedTuple):
    """Per row, as the window's end found it."""

    span: Span
    bounds: Bounds
    present: Mask  # counted in some state
    silent: Mask
    state: Ints  # index into _STATES, of the last sample before the end
    face: Ints
    rise: Rise
    usable: Mask
    heard: Mask  # has a sample inside the window
    differs: Mask  # some counter has a difference


def close(table: ServiceTable | None, end_ms: int, rules: Parameters) -> Closed:
    """The window that ends at `end_ms`; without a table, or instances, only the spec's roles, empty."""
    roles: dict[RoleName, RoleSignal] = {role: RoleSignal(instances=InstanceCounts()) for role in rules.roles}
    if table is None or not table.instances:
        return Closed(roles, None)
    view = _view(table, end_ms, rules)
    part = view.present | view.differs
    rows_of: dict[RoleName, list[Ints]] = {}
    for face in _numbers(view.face[part]):
        rows_of.setdefault(table.faces[face].role, []).append(np.flatnonzero(part & (view.face == face)))
    for role, groups in rows_of.items():
        roles[role] = _Role(table, view, _united(groups)).signal()
    return Closed(dict(sorted(roles.items())), _first_offset(table.series, view))


def _view(table: ServiceTable, end_ms: int, rules: Parameters) -> _View:
    series = table.series
    span = Span(float(end_ms - rules.size_ms), float(end_ms), float(rules.interval_ms), float(rules.forget_ms))
    every = np.arange(table.rows_used)
    bounds = rises.bounds(series, span, every)
    known = bounds.last >= 0
    last = series.places(np.maximum(bounds.last, 0), every)
    at_last = np.where(known, taken(series.at, last), -np.inf)
    face = np.where(known, taken(series.extras[FACE], last), 0).astype(np.int64)
    states = np.array([_STATES.index(each.state) for each in table.faces])
    state = np.where(known, states[face], _STATES.index(EngineState.STOPPING))
    age = span.end_ms - at_last
    serving = state == _STATES.index(EngineState.SERVING)
    silent = serving & (age > rules.silence_ms) & (age <= rules.forget_ms)
    present = (state != _STATES.index(EngineState.STOPPING)) & (age <= rules.silence_ms) & (age <= rules.forget_ms) | silent
    started = np.where(known, np.nan_to_num(taken(series.started, last), nan=-np.inf), -np.inf)
    from_ms = np.maximum(span.start_ms, started)
    rise = rises.rise(series, span, every, bounds, from_ms)
    wanted = span.end_ms - from_ms
    usable = present & serving & ~silent & (wanted > 0) & (rise.covered_ms >= USABLE_SHARE * wanted)
    heard = at_last >= span.start_ms
    return _View(span, bounds, present, silent, state, face, rise, usable, heard, any_column(~np.isnan(rise.amount)))


class _Role:
    """The figures of one role: `rows` are its instances, sorted."""

    def __init__(self, table: ServiceTable, view: _View, rows: Ints) -> None:
        self._table = table
        self._view = view
        self._rows = rows
        self._seconds = (view.span.end_ms - view.span.start_ms) / 1_000.0
        heard_of = view.present[rows] & ~view.silent[rows]
        state = np.where(heard_of, view.state[rows], -1)
        self._loading, self._serving, self._draining = (rows[state == i] for i in range(3))
        self._reach = view.bounds.reach(self._serving)
        at = table.series.at[self._reach, together(self._serving)]
        self._inside = (at >= view.span.start_ms) & (at < view.span.end_ms)  # of the serving ones' samples, those in the window
        self._samples = slots_where(self._inside)
        self._active = _united([self._serving, self._draining])

    def signal(self) -> RoleSignal:
        """All of it."""
        silent = int(self._view.silent[self._rows].sum())
        expected = len(self._serving) + silent
        amount = self._view.rise.amount[together(self._rows)]
        decode_tps, prefill_tps = self._rate(amount[:, GENERATION]), self._rate(amount[:, PROMPT])
        return RoleSignal(
            instances=InstanceCounts(loading=len(self._loading), serving=len(self._serving), draining=len(self._draining), silent=silent),
            coverage=round(int(self._view.usable[self._serving].sum()) / expected, _DIGITS) if expected else None,
            decode_tps=decode_tps,
            prefill_tps=prefill_tps,
            prefill_missed_tps=self._missed(),
            by_gpu_type=self._by_gpu_type(decode_tps, prefill_tps),
            gpu_util=self._mean(GPU_UTIL, weighted=True),
            sm_active=self._mean(SM_ACTIVE, weighted=True),
            kv_usage=self._mean(KV_USAGE, weighted=False),
            running=self._sum_of_last(RUNNING),
            waiting=self._sum_of_last(WAITING),
            ttft_ms=self._quantiles("ttft"),
            tbt_ms=self._quantiles("tbt"),
        )

    def _rate(self, amounts: Floats) -> float | None:
        """Tokens/s of the role; null without any difference."""
        there = amounts[~np.isnan(amounts)]
        return round(exact_sum(there) / self._seconds, _DIGITS) if len(there) else None

    def _missed(self) -> float | None:
        """Prompt tokens that no prefix cache held; null while an active instance that was heard does not count them."""
        series, view = self._table.series, self._view
        active = self._active[view.heard[self._active]]
        silent_about_it = active[np.isnan(taken(series.values, series.places(view.bounds.last[active], active))[:, CACHED])]
        if len(silent_about_it):
            at = series.at[:, silent_about_it]
            inside = (at >= view.span.start_ms) & (at < view.span.end_ms)
            if not (inside & ~np.isnan(series.values[:, silent_about_it, CACHED])).any(axis=0).all():
                return None
        amount = view.rise.amount[self._rows]
        return self._rate(np.maximum(amount[:, PROMPT] - amount[:, CACHED], 0.0))

    def _by_gpu_type(self, decode_tps: float | None, prefill_tps: float | None) -> dict[GpuTypeName, GpuTypeSignal]:
        """The role's rates, divided by type."""
        table, faces = self._table, self._view.face[self._rows]
        rows_of: dict[GpuTypeName, list[Ints]] = {}
        for face in _numbers(faces):
            gpu_type = table.faces[face].gpu_type
            if gpu_type is not None:
                rows_of.setdefault(gpu_type, []).append(self._rows[faces == face])
        serving = np.zeros(table.rows_used, dtype=np.bool_)
        serving[self._serving] = True
        signals: dict[GpuTypeName, GpuTypeSignal] = {}
        for gpu_type, groups in sorted(rows_of.items()):
            rows = _united(groups)
            if len(rows) < len(self._rows):  # else all of the role is of this type
                amount = self._view.rise.amount[rows]
                decode_tps, prefill_tps = self._rate(amount[:, GENERATION]), self._rate(amount[:, PROMPT])
            signals[gpu_type] = GpuTypeSignal(serving=int(serving[rows].sum()), decode_tps=decode_tps, prefill_tps=prefill_tps)
        return signals

    def _mean(self, gauge: int, *, weighted: bool) -> float | None:
        """Mean over serving instances of each one's mean in the window; `weighted` by GPUs."""
        total, count = self._summed(self._table.series.extras[gauge])
        known = count > 0
        if not known.any():
            return None
        means = total[known] / count[known]
        if not weighted:
            return round(exact_sum(means) / len(means), _DIGITS)
        of_face = np.array([1.0 if face.gpus is None else float(face.gpus) for face in self._table.faces])
        weights = of_face[self._view.face[self._serving[known]]]
        weight = exact_sum(weights)
        return round(exact_sum(means * weights) / weight, _DIGITS) if weight else None

    def _summed(self, gauge: Floats) -> tuple[Floats, Ints]:
        """Per serving instance: the sum of a gauge over the window's samples that have it, and how many these are."""
        figures = gauge[self._reach, together(self._serving)]
        there, count = self._inside, self._samples
        absent = np.isnan(figures)
        if absent.any():
            there = there & ~absent
            count = slots_where(there)
        total: Floats = np.where(there, figures, 0.0).sum(axis=0) if count.any() else np.zeros(len(count))
        return total, count

    def _sum_of_last(self, gauge: int) -> float | None:
        series, rows = self._table.series, self._active
        figures = taken(series.extras[gauge], series.places(np.maximum(self._view.bounds.last[rows], 0), rows))
        there = figures[~np.isnan(figures)]
        return round(exact_sum(there), _DIGITS) if len(there) else None

    def _quantiles(self, kind: str) -> Quantiles | None:
        counts: dict[Edges, list[float]] = {}
        for edges, buckets in self._table.histograms[kind].items():
            rows = self._rows[self._rows < buckets.rows]
            step = max(1, _BLOCK_BUCKETS // buckets.width)
            steps = [self._observed(buckets, rows[begin : begin + step]) for begin in range(0, len(rows), step)]
            seen = [found for found in steps if found is not None]
            if seen:
                counts[edges] = (np.sum(seen, axis=0) / _STEP).tolist()
        return quantiles_ms(counts)

    def _observed(self, buckets: Series, rows: Ints) -> Floats | None:
        """Observations of `rows` by bucket, in steps; null without any difference."""
        span = self._view.span
        rise = rises.rise(buckets, span, rows, rises.bounds(buckets, span, rows), np.full(len(rows), span.start_ms)).amount
        rise = rise[~np.isnan(rise[:, 0])]  # a histogram has a difference as one, or none
        found: Floats = np.rint(rise * _STEP).sum(axis=0)
        return found if len(rise) else None


def _first_offset(series: Series, view: _View) -> int | None:
    """The lowest record that a counted instance's state or a difference came from."""
    left, last, right = view.bounds
    every = np.arange(len(left))
    at_left = taken(series.at, series.places(left, every))
    with np.errstate(invalid="ignore"):
        apart = taken(series.at, series.places(np.minimum(left + 1, series.slots - 1), every)) - at_left > view.span.forget_ms
    lowest = left + ((at_left < view.span.start_ms) & (left < last) & (apart | ~view.differs))
    part = (view.present | view.differs) & (last >= 0)
    reach = view.bounds.reach(every)
    slots = np.arange(reach.start, reach.stop, dtype=np.int16)[:, None]
    begin, end = np.where(part, lowest, series.slots), np.where(view.differs, right, last)
    inside = (slots >= begin.astype(np.int16)) & (slots <= end.astype(np.int16))
    offset = np.where(inside, series.extras[OFFSET][reach, : len(left)], np.inf).min(initial=np.inf)
    return int(offset) if np.isfinite(offset) else None


def _united(groups: list[Ints]) -> Ints:
    """Groups of rows as one, sorted."""
    some = [rows for rows in groups if len(rows)]
    return np.sort(np.concatenate(some), kind="stable") if len(some) > 1 else some[0] if some else groups[0]


def _numbers(faces: Ints) -> list[int]:
    """The faces that occur, sorted."""
    found: list[int] = np.flatnonzero(np.bincount(faces)).tolist()
    return found
