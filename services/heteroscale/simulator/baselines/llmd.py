"""llm-d's workload variant autoscaler on KV cache and queues, carried out by KEDA. After its documentation, 0.7.0, analyzer V1.

A replica is saturated at KV use >= 0.80 or a queue >= 5. Mean spare capacity of the others below 0.10 KV or below 3 requests: one more
replica, unless some are pending. One fewer if the load of N on N - 1 still leaves that spare capacity. KEDA's HPA then scales in to
the highest recommendation of 300 s. Engines of a pool share work evenly here, so one mean stands for each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from heteroscale.contracts.signals import RoleSignal
from heteroscale.simulator.baselines.policy import Recent


class SaturationTuning(msgspec.Struct, frozen=True, kw_only=True):
    """Values of the shipped ConfigMap; `every_ms` is the optimisation interval."""

    kv_threshold: float = 0.80
    queue_threshold: float = 5.0
    kv_spare: float = 0.1
    queue_spare: float = 3.0
    every_ms: int = 60_000
    down_stabilization_ms: int = 300_000


@dataclass(slots=True)
class SaturationRule:
    """One role's autoscaler."""

    tuning: SaturationTuning = field(default_factory=SaturationTuning)
    judged_ms: int | None = None
    recent: Recent = field(init=False)

    def __post_init__(self) -> None:
        self.recent = Recent(self.tuning.down_stabilization_ms)

    def recommend(self, now_ms: int, current: int, signal: RoleSignal) -> int:
        """See RoleRule."""
        if self.judged_ms is not None and now_ms - self.judged_ms < self.tuning.every_ms:
            return current
        serving = signal.instances.serving
        if signal.kv_usage is None or signal.waiting is None or serving == 0:
            return current
        self.judged_ms = now_ms
        kv, queue = [signal.kv_usage] * serving, [signal.waiting / serving] * serving
        wanted = current
        if wants_more(kv, queue, self.tuning):
            wanted = current if current > serving else current + 1
        elif serving >= current and may_lose_one(kv, queue, self.tuning):
            wanted = current - 1
        highest = self.recent.highest(now_ms, wanted)
        return min(current, highest) if wanted < current else wanted


def wants_more(kv: list[float], queue: list[float], tuning: SaturationTuning) -> bool:
    """Whether the mean spare capacity of the replicas that are not saturated is below a trigger; all saturated: yes."""
    spare = _spare(kv, queue, tuning)
    if not spare:
        return True
    return _mean([one for one, _ in spare]) < tuning.kv_spare or _mean([one for _, one in spare]) < tuning.queue_spare


def may_lose_one(kv: list[float], queue: list[float], tuning: SaturationTuning) -> bool:
    """Whether the whole load on one replica fewer leaves both spare capacities."""
    alive = [(one, length) for one, length in zip(kv, queue, strict=True) if one < tuning.kv_threshold and length < tuning.queue_threshold]
    rest = len(alive) - 1
    if rest < 1:
        return False
    spare_kv = tuning.kv_threshold - sum(one for one, _ in alive) / rest
    spare_queue = tuning.queue_threshold - sum(length for _, length in alive) / rest
    return spare_kv >= tuning.kv_spare and spare_queue >= tuning.queue_spare


def _spare(kv: list[float], queue: list[float], tuning: SaturationTuning) -> list[tuple[float, float]]:
    return [
        (tuning.kv_threshold - one, tuning.queue_threshold - length)
        for one, length in zip(kv, queue, strict=True)
        if one < tuning.kv_threshold and length < tuning.queue_threshold
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
