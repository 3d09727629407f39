"""A rule like Knative's pod autoscaler on concurrency. After the Knative Serving 1.20 documentation (autoscaling, KPA-specific settings).

Wanted = concurrency over (target x utilisation): mean of the stable window of 60 s, or, in panic mode, of the panic window of 6 s. Panic
begins when the panic window wants 200 % of what is ready, lasts a stable window beyond the last such moment, and never scales in. At
most 1,000 times up and a half down in a step. Windows here come each hop, so the panic window is the newest sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from heteroscale.contracts.signals import RoleSignal
from heteroscale.decision.law import ratio


class KpaTuning(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of config-autoscaler. `target` is concurrency per instance."""

    target: float = 100.0
    utilization: float = 0.7
    stable_window_ms: int = 60_000
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0


@dataclass(slots=True)
class KpaRule:
    """One role's autoscaler: requests that run or wait, over all instances."""

    tuning: KpaTuning = field(default_factory=KpaTuning)
    seen: list[tuple[int, float]] = field(default_factory=list)
    panic_until_ms: int | None = None
    panic_count: int = 0

    def recommend(self, now_ms: int, current: int, signal: RoleSignal) -> int:
        """See RoleRule."""
        if signal.running is None or signal.waiting is None:
            return current
        newest = signal.running + signal.waiting
        self.seen = [(at, value) for at, value in self.seen if at > now_ms - self.tuning.stable_window_ms]
        self.seen.append((now_ms, newest))
        stable = sum(value for _, value in self.seen) / len(self.seen)
        ready = max(1, signal.instances.serving)
        wanted, panic = self._limited(pods(stable, self.tuning), ready), self._limited(pods(newest, self.tuning), ready)
        if pods(newest, self.tuning) >= ready * self.tuning.panic_threshold:
            self.panic_until_ms = now_ms + self.tuning.stable_window_ms
        if self.panic_until_ms is None or now_ms > self.panic_until_ms:
            self.panic_until_ms, self.panic_count = None, 0
            return wanted
        self.panic_count = max(self.panic_count, panic, current)
        return self.panic_count

    def _limited(self, count: int, ready: int) -> int:
        up = ratio.ceil(self.tuning.max_scale_up_rate * ready)
        down = int(ready / self.tuning.max_scale_down_rate)
        return min(max(count, down), up)


def pods(concurrency: float, tuning: KpaTuning) -> int:
    """ceil(concurrency / (target * utilisation))."""
    return ratio.ceil(concurrency / (tuning.target * tuning.utilization))
