"""AIBrix APA, the application-specific pod autoscaler. After its v0.6 documentation, the examples in its tests and its sample for pools.

Metrics are means over 180 s. Nothing within 10 % of the target on either side. Else ceil(current * metric / target), at most twice up, at
least half down. Scaling in waits 300 s (its scale-down cool-down). The sample for roles that scale apart in a pool (stormservice-pool)
has prefill on the length of its queue, target 10, and decode on the use of its batch, target 70 %, with 600 s before it scales in;
the share of the KV cache in use stands for the use of the batch here.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import msgspec

from heteroscale.contracts.signals import RoleSignal
from heteroscale.decision.law import ratio
from heteroscale.simulator.baselines.policy import Recent


class ApaMetric(enum.Enum):
    """What an instance is measured by: requests in its queue, or the share of its KV cache in use."""

    QUEUE = "queue"
    KV_USAGE = "kv_usage"


class ApaTuning(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of the PodAutoscaler's annotations."""

    metric: ApaMetric = ApaMetric.KV_USAGE
    target: float = 0.5
    up_tolerance: float = 0.1
    down_tolerance: float = 0.1
    max_up: float = 2.0
    max_down: float = 2.0
    down_cooldown_ms: int = 300_000
    window_ms: int = 180_000


PREFILL_OF_POOL = ApaTuning(metric=ApaMetric.QUEUE, target=10.0)
DECODE_OF_POOL = ApaTuning(metric=ApaMetric.KV_USAGE, target=0.7, down_cooldown_ms=600_000)


@dataclass(slots=True)
class ApaRule:
    """One role's autoscaler."""

    tuning: ApaTuning = field(default_factory=ApaTuning)
    recent: Recent = field(init=False)
    seen: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recent = Recent(self.tuning.down_cooldown_ms)

    def recommend(self, now_ms: int, current: int, signal: RoleSignal) -> int:
        """See RoleRule."""
        value = self._measured(signal)
        if value is None:
            return current
        self.seen = [(at, one) for at, one in self.seen if at > now_ms - self.tuning.window_ms]
        self.seen.append((now_ms, value))
        wanted = replicas(current, sum(one for _, one in self.seen) / len(self.seen), self.tuning)
        highest = self.recent.highest(now_ms, wanted)
        return min(current, highest) if wanted < current else wanted

    def _measured(self, signal: RoleSignal) -> float | None:
        match self.tuning.metric:
            case ApaMetric.KV_USAGE:
                return signal.kv_usage
            case ApaMetric.QUEUE:
                serving = signal.instances.serving
                return None if signal.waiting is None or serving == 0 else signal.waiting / serving


def replicas(current: int, value: float, tuning: ApaTuning) -> int:
    """Replicas for a metric value per instance."""
    usage = value / tuning.target
    wanted = ratio.ceil(current * usage)
    if usage > 1 + tuning.up_tolerance + ratio.EPSILON:
        return min(wanted, math.ceil(tuning.max_up * current))
    if usage < 1 - tuning.down_tolerance - ratio.EPSILON:
        return max(wanted, math.floor(current / tuning.max_down))
    return current
