"""Kthena's disaggregated autoscaler: each role by its own metric, then a ratio band between them. After its documentation and tests (v0.4).

Per role: ceil(total / target), nothing within 10 %, scale-in to the highest of 300 s. Then the pair of counts is moved into the band:
the short role is raised first, and only if a bound forbids it is the other lowered. Metric: requests that run or wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import msgspec

from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision.law import ratio
from heteroscale.simulator.baselines.policy import Recent


class KthenaTuning(msgspec.Struct, frozen=True, kw_only=True):
    """Documented example values; `targets` are requests per instance of each role. The band is a share of the spec's ratio."""

    targets: dict[str, float] = {}
    target: float = 10.0
    tolerance: float = 0.1
    down_stabilization_ms: int = 300_000
    band: float = 0.25


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of numerator / denominator."""

    low: Fraction
    high: Fraction


@dataclass(slots=True)
class Kthena:
    """Both roles, and the band between them."""

    spec: ServiceSpec
    tuning: KthenaTuning = field(default_factory=KthenaTuning)
    counts: dict[str, int] = field(default_factory=dict)
    recent: dict[str, Recent] = field(default_factory=dict)

    def decide(self, window: SignalWindow) -> dict[str, int]:
        """See Policy."""
        bounds = {role: (stated.min, stated.max) for role, stated in sorted(self.spec.roles.items())}
        for role, (least, most) in bounds.items():
            current = self.counts.setdefault(role, least)
            signal = window.roles.get(role)
            wanted = current if signal is None else self._recommend(role, current, signal)
            recent = self.recent.setdefault(role, Recent(self.tuning.down_stabilization_ms))
            highest = recent.highest(window.end_ms, wanted)
            self.counts[role] = min(max(min(current, highest) if wanted < current else wanted, least), most)
        if len(self.spec.ratio) == 2:
            upper, lower = sorted(self.spec.ratio, reverse=True)
            exact = Fraction(self.spec.ratio[upper], self.spec.ratio[lower])
            width = Fraction(self.tuning.band).limit_denominator(100)
            band = Band(low=exact * (1 - width), high=exact * (1 + width))
            pair = in_band((self.counts[upper], self.counts[lower]), (bounds[upper], bounds[lower]), band)
            if pair is not None:
                self.counts[upper], self.counts[lower] = pair
        return dict(self.counts)

    def _recommend(self, role: str, current: int, signal: RoleSignal) -> int:
        if signal.running is None or signal.waiting is None:
            return current
        usage = (signal.running + signal.waiting) / self.tuning.targets.get(role, self.tuning.target)
        if current and abs(usage / current - 1.0) <= self.tuning.tolerance:
            return current
        return ratio.ceil(usage)


def in_band(pair: tuple[int, int], bounds: tuple[tuple[int, int], tuple[int, int]], band: Band) -> tuple[int, int] | None:
    """(numerator, denominator) inside the band and the bounds, raised rather than lowered; null if there is no such pair.

    Both zero stays so; one zero becomes one first.
    """
    (low_n, high_n), (low_d, high_d) = bounds
    upper, lower = min(max(pair[0], low_n), high_n), min(max(pair[1], low_d), high_d)
    if upper == 0 and lower == 0:
        return upper, lower
    upper, lower = upper or min(max(1, low_n), high_n), lower or min(max(1, low_d), high_d)
    if lower and band.low <= Fraction(upper, lower) <= band.high:
        return upper, lower
    least = max(1, low_d, _up(Fraction(low_n) / band.high))
    most = min(high_d, int(Fraction(high_n) / band.low)) if band.low > 0 else high_d
    if least > most:
        return None
    start = min(max(lower, least, _up(Fraction(upper) / band.high) if Fraction(upper, max(1, lower)) > band.high else 0), most)
    for denominator in (*range(start, most + 1), *range(start - 1, least - 1, -1)):
        first, last = max(low_n, _up(band.low * denominator)), min(high_n, int(band.high * denominator))
        if first <= last:
            return min(max(upper, first), last), denominator
    return None


def _up(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
