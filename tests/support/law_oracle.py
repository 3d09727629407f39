"""The law's arithmetic stages a second time, as plain as can be: lists of the whole past, feasible counts by trying them all.

One signal of the lead with full coverage, no guards, no schedules, no soft scale-in, and engines that follow at once. Written from
the page that describes the law, not from its code, to be compared with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from heteroscale.contracts.spec import RatePolicy, ServiceSpec

EPSILON = 1e-9
TRIED = 400


@dataclass
class Oracle:
    """One service; `decide` is told each window's end and demand in instances, in order."""

    spec: ServiceSpec
    n: int
    began_ms: int
    moves: list[tuple[int, int, int]] = field(default_factory=list)  # (at, before, after)
    wished: list[tuple[int, int]] = field(default_factory=list)  # (at, value after bounds)

    def __post_init__(self) -> None:
        self.wished.append((self.began_ms, self.n))
        self.feasible = [n for n in range(TRIED) if all(self._inside(role, n) for role in self.spec.ratio)]

    def derived(self, role: str, n: int) -> int:
        """ceil(n · share / the lead's share)."""
        return math.ceil(n * self.spec.ratio[role] / self.spec.ratio["decode"] - EPSILON)

    def decide(self, at_ms: int, d: float) -> int:
        """The count after one window."""
        behavior, n = self.spec.behavior, self.n
        value = n
        if d > n * (1 + behavior.scale_out.tolerance.fraction) + EPSILON or d < n * (1 - behavior.scale_in.tolerance.fraction) - EPSILON:
            value = math.ceil(d - EPSILON)
        wish = self._nearest(value)
        allowed = self._slowed(at_ms, wish)
        home = self._nearest(n)  # a return to the bounds is at once
        value = max(allowed, home) if wish >= home >= n else min(allowed, home) if wish <= home <= n else allowed
        self.wished.append((at_ms, wish))
        if value != n:
            self.moves.append((at_ms, n, value))
        self.n = value
        return value

    def _inside(self, role: str, n: int) -> bool:
        return self.spec.roles[role].min <= self.derived(role, n) <= self.spec.roles[role].max

    def _nearest(self, n: int) -> int:
        return min(self.feasible, key=lambda count: abs(count - n))

    def _slowed(self, at_ms: int, wish: int) -> int:
        """The wish after rate, stabilisation and cooldown."""
        behavior, n = self.spec.behavior, self.n
        outs = [at for at, before, after in self.moves if after > before]
        ins = [at for at, before, after in self.moves if after < before]
        resting_out = any(at_ms < at + behavior.scale_out.cooldown.ms for at in outs)
        if wish > n:
            lowest = min([wish, *self._recent(at_ms, behavior.scale_out.stabilization.ms)])
            reach = max(self._reach(at_ms, policy, 1) for policy in behavior.scale_out.policies)
            return n if resting_out else max(n, min(wish, lowest, reach))
        highest = max([wish, *self._recent(at_ms, behavior.scale_in.stabilization.ms)])
        reach = min(self._reach(at_ms, policy, -1) for policy in behavior.scale_in.policies)
        resting = resting_out or any(at_ms < at + behavior.scale_in.cooldown.ms for at in ins)
        return n if resting else min(n, max(wish, highest, reach))

    def _recent(self, at_ms: int, window_ms: int) -> list[int]:
        return [value for at, value in self.wished if at > at_ms - window_ms]

    def _reach(self, at_ms: int, policy: RatePolicy, sign: int) -> int:
        """The count at the period's start and what the policy allows from there: up on the way out, down on the way in, at least one."""
        inside = [before for at, before, _ in self.moves if at > at_ms - policy.period.ms]
        start = inside[0] if inside else self.n
        share = start * policy.value / 100
        step = math.ceil(share - EPSILON) if sign > 0 else math.floor(share + EPSILON)
        return start + sign * max(1, policy.value if policy.type == "pods" else step)
