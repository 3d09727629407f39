"""Other autoscalers behind the interface of ours: windows in, counts out. Each is written from its own documentation.

A policy replaces the decision service alone: signals, placement, fleet and engines are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision.law import ratio
from heteroscale.simulator.curves import kind_of
from heteroscale.simulator.pool import Kind
from heteroscale.simulator.static import Day, smallest

OURS: Final = "heteroscale"
STATIC_TARGET: Final = 0.99


class Policy(Protocol):
    """Decides the counts of one service, window by window."""

    def decide(self, window: SignalWindow) -> dict[str, int]:
        """Replicas per role from now on."""
        ...


@dataclass(slots=True)
class StaticPeak:
    """The smallest fixed fleet that meets the targets for STATIC_TARGET of all requests of this very trace."""

    counts: dict[str, int]

    def decide(self, window: SignalWindow) -> dict[str, int]:
        """Always the same."""
        del window
        return self.counts


@dataclass(slots=True)
class Recommended:
    """Recommendations of one role, for the stabilisation window."""

    replicas: int
    history: list[tuple[int, int]] = field(default_factory=list)


class HpaTuning(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of kube-controller-manager and of autoscaling/v2 (Kubernetes 1.37 documentation)."""

    utilization: float = 0.8
    tolerance: float = 0.1
    down_stabilization_ms: int = 300_000
    up_percent: int = 100
    up_pods: int = 4
    period_ms: int = 15_000


@dataclass(slots=True)
class HpaGpu:
    """Kubernetes HPA v2 on mean GPU utilisation, prefill and decode apart: what most people run."""

    spec: ServiceSpec
    tuning: HpaTuning = field(default_factory=HpaTuning)
    roles: dict[str, Recommended] = field(default_factory=dict)

    def decide(self, window: SignalWindow) -> dict[str, int]:
        """Each role by itself."""
        for role, bounds in sorted(self.spec.roles.items()):
            state = self.roles.setdefault(role, Recommended(bounds.min))
            signal = window.roles.get(role)
            wanted = state.replicas if signal is None else self.recommend(state.replicas, signal)
            state.replicas = min(max(self._stabilized(state, wanted, window.end_ms), bounds.min), bounds.max)
        return {role: state.replicas for role, state in self.roles.items()}

    def recommend(self, current: int, signal: RoleSignal) -> int:
        """ceil(current * metric / target), no change within the tolerance; instances not ready count as idle on the way out."""
        ready = signal.instances.serving
        if signal.gpu_util is None or ready == 0:
            return current
        usage = signal.gpu_util / self.tuning.utilization
        if abs(usage - 1.0) <= self.tuning.tolerance:
            return current
        unready = max(0, current - ready)
        if usage > 1.0 and unready:
            usage = signal.gpu_util * ready / (ready + unready) / self.tuning.utilization
            if usage <= 1.0 + self.tuning.tolerance:
                return current
            return ratio.ceil(usage * (ready + unready))
        return ratio.ceil(usage * ready)

    def _stabilized(self, state: Recommended, wanted: int, now_ms: int) -> int:
        """Down to the highest recommendation of the last five minutes; up by at most the larger of 100 % and 4 pods in 15 s."""
        state.history = [(at, count) for at, count in state.history if at > now_ms - self.tuning.down_stabilization_ms]
        state.history.append((now_ms, wanted))
        if wanted < state.replicas:
            return min(state.replicas, max(count for _, count in state.history))
        grown = max(state.replicas * (100 + self.tuning.up_percent) // 100, state.replicas + self.tuning.up_pods)
        return min(wanted, grown)


ABOUT: Final[Mapping[str, str]] = {
    OURS: "the decision service itself",
    "static-peak": "the smallest fixed P:D fleet that keeps 99 % of the trace's requests within SLO, found by search",
    "hpa-gpu": "Kubernetes HPA v2 on mean GPU utilisation, target 80 %, prefill and decode apart, default behaviour",
}


def build(name: str, spec: ServiceSpec, day: Day) -> Policy:
    """A policy for one service. `day` is the load it will see; only static-peak looks at it."""
    if name == "static-peak":
        fleet = smallest(day, STATIC_TARGET)
        by_kind = {Kind.PREFILL: fleet.prefill, Kind.DECODE: fleet.decode}
        return StaticPeak({role: by_kind.get(kind_of(role, spec), bounds.min) for role, bounds in sorted(spec.roles.items())})
    return HpaGpu(spec)
