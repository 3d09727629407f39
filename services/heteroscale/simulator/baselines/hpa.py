"""Kubernetes HPA v2 on mean GPU utilisation: what most people run. After the Kubernetes 1.37 documentation of autoscaling/v2.

Desired = ceil(current * metric / target), nothing within the tolerance of 0.1. Pods that are not ready count as idle on the way out, which
may turn it into no change. Down: the highest recommendation of the last 300 s. Up: at most the larger of 100 % and 4 pods in 15 s, so
that several such steps fit between two windows. Since utilisation ends at 100 %, full load is within the tolerance
of any target above 91 %: such an autoscaler never scales out. That is Kubernetes' own arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from heteroscale.contracts.signals import RoleSignal
from heteroscale.decision.law import ratio
from heteroscale.simulator.baselines.policy import Recent


class HpaTuning(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of kube-controller-manager and of autoscaling/v2; `utilization` has none there, 0.8 is the documentation's example."""

    utilization: float = 0.8
    tolerance: float = 0.1
    down_stabilization_ms: int = 300_000
    up_percent: int = 100
    up_pods: int = 4
    up_period_ms: int = 15_000


@dataclass(slots=True)
class HpaRule:
    """One role's autoscaler."""

    tuning: HpaTuning = field(default_factory=HpaTuning)
    recent: Recent = field(init=False)
    judged_ms: int | None = None

    def __post_init__(self) -> None:
        self.recent = Recent(self.tuning.down_stabilization_ms)

    def recommend(self, now_ms: int, current: int, signal: RoleSignal) -> int:
        """See RoleRule."""
        wanted = desired(current, signal.instances.serving, signal.gpu_util, self.tuning)
        highest = self.recent.highest(now_ms, wanted)
        periods = 1 if self.judged_ms is None else max(1, (now_ms - self.judged_ms) // self.tuning.up_period_ms)
        self.judged_ms = now_ms
        if wanted < current:
            return min(current, highest)
        most = current
        for _ in range(periods):
            most = max(most * (100 + self.tuning.up_percent) // 100, most + self.tuning.up_pods)
        return min(wanted, most)


def desired(current: int, ready: int, value: float | None, tuning: HpaTuning) -> int:
    """The count before behaviour; `value` is the mean over ready pods, null when there is no metric."""
    if value is None or ready == 0:
        return current
    usage = value / tuning.utilization
    if abs(usage - 1.0) <= tuning.tolerance + ratio.EPSILON:
        return current
    unready = max(0, current - ready)
    if usage > 1.0 and unready:
        usage = value * ready / (ready + unready) / tuning.utilization
        return current if usage <= 1.0 + tuning.tolerance else ratio.ceil(usage * (ready + unready))
    return ratio.ceil(usage * ready)
