"""Policies that look at the clock and not at the service: fixed counts, a periodic schedule, and the one that knows the day beforehand.

The schedule is written as people write one: for each hour of a day (or week) that was seen before, the smallest fleet that would have met
the targets in it, in place `lead` earlier, with a margin. The clairvoyant knows the very trace: for each minute the smallest
fleet, held from one start-up time before. No policy that pays for start-up can do with clearly less, so its GPU-hours serve as the
lower bound.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision.law import ratio
from heteroscale.simulator.load.traffic import CACHED, OUTPUT, PROMPT, REQUESTS
from heteroscale.simulator.model import engines, service
from heteroscale.simulator.model.curves import kind_of
from heteroscale.simulator.model.pool import Kind
from heteroscale.simulator.model.static import Day, StaticFleet, smallest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HOUR_S = 3_600
DAY_H = 24
WEEK_H = 168
DAY_MS = 86_400_000
MINUTE_S = 60
ROUNDS = 12
COUNT_MAX = 4_096


@dataclass(slots=True)
class Fixed:
    """The same counts always."""

    counts: Mapping[str, int]

    def decide(self, window: SignalWindow) -> dict[str, int]:
        """See Policy."""
        del window
        return dict(self.counts)


@dataclass(slots=True)
class Periodic:
    """Counts by the hour of the day. `zero_ms` is an instant at which hour 0 of the table begins."""

    spec: ServiceSpec
    hours: Mapping[str, Ints]
    zero_ms: int
    lead_ms: int

    def decide(self, window: SignalWindow) -> dict[str, int]:
        """The larger of the hour now and the one that begins within `lead_ms`."""
        counts = {}
        for role, bounds in sorted(self.spec.roles.items()):
            table = self.hours[role]
            now = (window.end_ms - self.zero_ms) // (HOUR_S * 1000) % len(table)
            soon = (window.end_ms + self.lead_ms - self.zero_ms) // (HOUR_S * 1000) % len(table)
            counts[role] = min(max(int(max(table[now], table[soon])), bounds.min), bounds.max)
        return counts


@dataclass(slots=True)
class Clairvoyant:
    """Counts by the minute of the trace."""

    minutes: Mapping[str, Ints]
    zero_ms: int

    def decide(self, window: SignalWindow) -> dict[str, int]:
        """What the minutes until the next start-up is over need at most."""
        now = int(np.clip((window.end_ms - self.zero_ms) // 60_000, 0, min(map(len, self.minutes.values())) - 1))
        return {role: int(table[now]) for role, table in sorted(self.minutes.items())}


@functools.lru_cache(maxsize=4)
def _by_hour(day: Day, target: float) -> list[StaticFleet]:
    """The smallest fleet of each hour."""
    steps = round(HOUR_S / day.step_s)
    return [smallest(replace(day, load=day.load[first : first + steps]), target) for first in range(0, len(day.load), steps)]


def hourly(day: Day, target: float, margin: float) -> dict[str, Ints]:
    """Counts per role for each hour of the week if a week was seen, else of the day; the largest where an hour was seen more than once."""
    fleets = _by_hour(day, target)
    hours = next((length for length in (WEEK_H, DAY_H) if len(fleets) >= length), len(fleets))
    by_kind = {Kind.PREFILL: [one.prefill for one in fleets], Kind.DECODE: [one.decode for one in fleets]}
    table = {}
    for role, bounds in sorted(day.spec.roles.items()):
        counts = by_kind.get(kind_of(role, day.spec), [bounds.min])
        most = [max(counts[hour::hours], default=bounds.min) for hour in range(hours)]
        table[role] = np.array([ratio.ceil(count * (1 + margin)) for count in most], dtype=np.int64)
    return table


def clairvoyant(day: Day, target: float, lead_s: float) -> dict[str, Ints]:
    """Counts per role for each minute, so that `target` of all requests are within both targets; held from `lead_s` before."""
    prefill, decode = _sides(day)
    low, high = 0.0, 1.0
    for _ in range(ROUNDS):  # the same attainment in each minute and role; the whole lies between one role's and the square of it
        middle = (low + high) / 2
        share = 1.0 - (1.0 - target) * 2 * middle - 1e-9
        reached = _overall((prefill, decode), prefill.least(share), decode.least(share))
        low, high = (middle, high) if reached >= target else (low, middle)
    share = 1.0 - (1.0 - target) * 2 * low - 1e-9
    by_kind = {Kind.PREFILL: prefill.least(share), Kind.DECODE: decode.least(share)}
    ahead = int(np.ceil(lead_s / MINUTE_S))
    minutes = len(by_kind[Kind.PREFILL])
    return {
        role: np.array([by_kind[kind][at : at + ahead + 1].max() for at in range(minutes)], dtype=np.int64)
        for role in sorted(day.spec.roles)
        if (kind := kind_of(role, day.spec)) in by_kind
    }


@functools.lru_cache(maxsize=2)
def _sides(day: Day) -> tuple[_Side, _Side]:
    """Prefill and decode."""
    return _Side.prefill(day), _Side.decode(day)


def _overall(sides: tuple[_Side, _Side], prefill: Ints, decode: Ints) -> float:
    """Share of all requests within both targets."""
    weight = sides[0].weight
    return float((weight * sides[0].at(prefill) * sides[1].at(decode)).sum() / max(weight.sum(), 1e-9))


@dataclass(slots=True)
class _Side:
    """Attainment of one role by minute and count, shape (minutes, counts); `weight` (minutes,) is requests."""

    table: Floats
    weight: Floats

    def least(self, share: float) -> Ints:
        """The smallest count from 1 whose attainment is `share`, else the largest there is."""
        enough = self.table >= share
        return np.asarray(np.where(enough.any(axis=1), enough.argmax(axis=1), self.table.shape[1] - 1) + 1, dtype=np.int64)

    def at(self, counts: Ints) -> Floats:
        """Attainment per minute with these counts."""
        return np.asarray(self.table[np.arange(len(counts)), counts - 1])

    @classmethod
    def decode(cls, day: Day) -> _Side:
        """TBT by count, without any queue: a step that is too much for a count is lost to it."""
        requests = np.maximum(day.load[:, REQUESTS], 1e-9)
        context = day.load[:, PROMPT] / requests + day.load[:, OUTPUT] / requests / 2
        curve, target = day.curves.decode, service.slo_s(day.spec, "tbt")
        one = engines.decode_rates(curve, day.gpus(Kind.DECODE), context) * day.factor(Kind.DECODE) * day.step_s
        offered = day.load[:, OUTPUT]

        def share(count: int) -> Floats:
            load = offered / (one * count)
            within = np.ones(len(load)) if target is None else engines.itl_within(target, curve.latency_s(load, context))
            return np.where(load <= 1.0, within, 0.0)

        return cls(*_by_minute(day, share, int(np.ceil((offered / one).max())) if len(offered) else 1))

    @classmethod
    def prefill(cls, day: Day) -> _Side:
        """TTFT by count, without any queue beyond its step."""
        offered = np.maximum(day.load[:, PROMPT] - day.load[:, CACHED], 0.0)
        prompt = np.maximum(offered / np.maximum(day.load[:, REQUESTS], 1e-9), 1.0)
        curve, profile, target = day.curves.prefill, day.curves.profile, service.slo_s(day.spec, "ttft")
        one = engines.prefill_rates(curve, day.gpus(Kind.PREFILL), prompt) * day.factor(Kind.PREFILL)
        handed = engines.hand_over_s(prompt, profile.kv_bytes_per_token, profile.link_bytes_per_s, 1.0)
        spread = engines.prompt_spread(day.prompt_cv)

        def share(count: int) -> Floats:
            load = offered / (one * count * day.step_s)
            if target is None:
                return np.where(load <= 1.0, 1.0, 0.0)
            servers = count * day.gpus(Kind.PREFILL) / curve.engine_gpus
            seconds = prompt * servers / (one * count)
            waiting = engines.queueing(load, servers, seconds, day.prompt_cv)
            return np.where(load <= 1.0, engines.ttft_within(target, handed, waiting, seconds[:, None] * spread), 0.0)

        return cls(*_by_minute(day, share, int(np.ceil((offered / (one * day.step_s)).max())) if len(offered) else 1))


def _by_minute(day: Day, share: object, largest: int) -> tuple[Floats, Floats]:
    """Mean of each minute's steps, weighted by requests, for counts 1 to somewhat above what the largest step needs."""
    assert callable(share)  # noqa: S101 - the two closures above
    steps = round(MINUTE_S / day.step_s)
    minutes = -(-len(day.load) // steps)
    weight = np.zeros(minutes * steps)
    weight[: len(day.load)] = day.load[:, REQUESTS]
    whole = weight.reshape(minutes, steps).sum(axis=1)
    columns = []
    for count in range(1, min(COUNT_MAX, largest * 2 + 3)):
        met = np.zeros(minutes * steps)
        met[: len(day.load)] = day.load[:, REQUESTS] * share(count)
        columns.append(np.where(whole > 0, met.reshape(minutes, steps).sum(axis=1) / np.maximum(whole, 1e-9), 1.0))
    return np.stack(columns, axis=1), whole
