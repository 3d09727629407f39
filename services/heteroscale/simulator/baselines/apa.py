"""AIBrix APA, the application-specific pod autoscaler. After its v0.4 documentation and the examples in its tests.

Nothing within 10 % of the target on either side. Else ceil(current * metric / target), at most twice up, at least half down. Metric: KV
cache use, as its documentation's example has it (gpu_cache_usage_perc, target 0.5). Scaling in waits 300 s (its scale-down cool-down).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from heteroscale.contracts.signals import RoleSignal
from heteroscale.decision.law import ratio
from heteroscale.simulator.baselines.policy import Recent


class ApaTuning(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of the PodAutoscaler's annotations."""

    target: float = 0.5
    up_tolerance: float = 0.1
    down_tolerance: float = 0.1
    max_up: float = 2.0
    max_down: float = 2.0
    down_cooldown_ms: int = 300_000


@dataclass(slots=True)
class ApaRule:
    """One role's autoscaler."""

    tuning: ApaTuning = field(default_factory=ApaTuning)
    recent: Recent = field(init=False)

    def __post_init__(self) -> None:
        self.recent = Recent(self.tuning.down_cooldown_ms)

    def recommend(self, now_ms: int, current: int, signal: RoleSignal) -> int:
        """See RoleRule."""
        if signal.kv_usage is None:
            return current
        wanted = replicas(current, signal.kv_usage, self.tuning)
        highest = self.recent.highest(now_ms, wanted)
        return min(current, highest) if wanted < current else wanted


def replicas(current: int, value: float, tuning: ApaTuning) -> int:
    """Replicas for a metric value per instance."""
    usage = value / tuning.target
    wanted = ratio.ceil(current * usage)
    if usage > 1 + tuning.up_tolerance + ratio.EPSILON:
        return min(wanted, math.ceil(tuning.max_up * current))
    if usage < 1 - tuning.down_tolerance - ratio.EPSILON:
        return max(wanted, math.floor(current / tuning.max_down))
    return current
