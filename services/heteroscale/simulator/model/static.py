"""The smallest fixed P:D fleet that reaches a given attainment over a trace, found by search over the same engine model."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.spec import RoleSpec, ServiceSpec
from heteroscale.simulator.load.traffic import CACHED, OUTPUT, PROMPT, REQUESTS
from heteroscale.simulator.model import engines, service
from heteroscale.simulator.model.curves import Curves, kind_of
from heteroscale.simulator.model.pool import Kind

Floats = npt.NDArray[np.float64]

PLENTY: Final = 4_096  # instances of a role that no trace here fills


@dataclass(frozen=True, slots=True)
class StaticFleet:
    """A fixed fleet of one service: instances of the prefill and the decode role, and what it attains."""

    prefill: int
    decode: int
    gpus: int
    attainment: float


@dataclass(frozen=True, slots=True, eq=False)
class Day:
    """A service's load over a trace and what latency comes of a fixed fleet, all steps at once. What was worked out is remembered."""

    spec: ServiceSpec
    curves: Curves
    load: Floats
    step_s: float
    prompt_cv: float
    known: dict[tuple[int, int], float] = field(default_factory=dict, init=False, repr=False)

    def gpus(self, kind: Kind) -> int:
        """GPUs an instance of the role has; 0 where the spec has no such role."""
        role = self._role(kind)
        return 0 if role is None else gpus_of(role)

    def _role(self, kind: Kind) -> RoleSpec | None:
        return next((role for name, role in sorted(self.spec.roles.items()) if kind_of(name, self.spec) is kind), None)

    def factor(self, kind: Kind) -> float:
        """Throughput of the role's first GPU type relative to the curve."""
        for name, role in sorted(self.spec.roles.items()):
            if kind_of(name, self.spec) is kind and role.gpu_types:
                return self.curves.factor(name, role.gpu_types[0].type)
        return 1.0

    def decode_side(self, count: int) -> tuple[Floats, Floats]:
        """Share of tokens within the TBT target and the wait for a decode slot, per step."""
        requests = np.maximum(self.load[:, REQUESTS], 1e-9)
        context = self.load[:, PROMPT] / requests + self.load[:, OUTPUT] / requests / 2
        curve = self.curves.decode
        rate = engines.decode_rates(curve, self.gpus(Kind.DECODE), context) * self.factor(Kind.DECODE) * count
        offered = self.load[:, OUTPUT]
        before, after = engines.backlog(offered, rate * self.step_s, engines.PATIENCE_S * np.maximum(rate, offered / self.step_s))
        done = np.minimum(before + offered, rate * self.step_s)
        itl = curve.latency_s(done / np.maximum(rate * self.step_s, 1e-9), context)
        target = service.slo_s(self.spec, "tbt")
        within = np.ones(len(offered)) if target is None else engines.itl_within(target, itl)
        return within * self._kept(offered, before, after, done), (before + after) / 2 / np.maximum(rate, 1e-9)

    def prefill_side(self, count: int, decode_wait_s: Floats) -> Floats:
        """Share of requests within the TTFT target, per step; those given up are not."""
        offered = np.maximum(self.load[:, PROMPT] - self.load[:, CACHED], 0.0)
        prompt = np.maximum(offered / np.maximum(self.load[:, REQUESTS], 1e-9), 1.0)
        curve, profile = self.curves.prefill, self.curves.profile
        each = engines.prefill_rates(curve, self.gpus(Kind.PREFILL), prompt) * self.factor(Kind.PREFILL)
        rate = each * count
        before, after = engines.backlog(offered, rate * self.step_s, engines.PATIENCE_S * np.maximum(rate, offered / self.step_s))
        done = np.minimum(before + offered, rate * self.step_s)
        servers = count * self.gpus(Kind.PREFILL) / curve.engine_gpus
        service_s = prompt * servers / rate
        waiting = engines.queueing(done / (rate * self.step_s), servers, service_s, self.prompt_cv)
        handed = engines.hand_over_s(prompt, profile.kv_bytes_per_token, profile.link_bytes_per_s, 1.0)
        target = service.slo_s(self.spec, "ttft")
        kept = self._kept(offered, before, after, done)
        if target is None:
            return kept
        fixed = (before + after) / 2 / rate + handed + decode_wait_s
        return engines.ttft_within(target, fixed, waiting, service_s[:, None] * engines.prompt_spread(self.prompt_cv)) * kept

    @staticmethod
    def _kept(offered: Floats, before: Floats, after: Floats, done: Floats) -> Floats:
        lost = np.maximum(before + offered - done - after, 0.0)
        return np.asarray(1.0 - np.minimum(lost / np.maximum(offered, 1e-9), 1.0))

    def attainment(self, prefill: int, decode: int) -> float:
        """Share of all requests that meet both targets."""
        fleet = (prefill, decode)
        if fleet not in self.known:
            self.known[fleet] = self._attainment(prefill, decode)
        return self.known[fleet]

    def _attainment(self, prefill: int, decode: int) -> float:
        tbt, wait = self.decode_side(decode) if self.gpus(Kind.DECODE) else (np.ones(len(self.load)), np.zeros(len(self.load)))
        ttft = self.prefill_side(prefill, wait) if self.gpus(Kind.PREFILL) else np.ones(len(self.load))
        total = float(self.load[:, REQUESTS].sum())
        return float((self.load[:, REQUESTS] * ttft * tbt).sum()) / total if total > 0 else 1.0


def gpus_of(role: RoleSpec) -> int:
    """GPUs of one instance, parts included."""
    if role.parts:
        return sum(part.count * part.gpus for part in role.parts.values())
    return role.gpus or 0


def smallest(day: Day, target: float) -> StaticFleet:
    """The cheapest (prefill, decode) with at least `target`, or with what any fleet of this kind can reach at most."""
    wanted = min(target, day.attainment(PLENTY, PLENTY) - 1e-6)
    least_prefill = _least(lambda count: day.attainment(count, PLENTY) >= wanted)
    least_decode = _least(lambda count: day.attainment(PLENTY, count) >= wanted)
    cost = (day.gpus(Kind.PREFILL), day.gpus(Kind.DECODE))
    queue = [(least_prefill * cost[0] + least_decode * cost[1], least_prefill, least_decode)]
    seen = {queue[0][1:]}
    while True:
        gpus, prefill, decode = heapq.heappop(queue)
        reached = day.attainment(prefill, decode)
        if reached >= wanted:
            return StaticFleet(prefill if cost[0] else 0, decode if cost[1] else 0, gpus, reached)
        for more in ((prefill + 1, decode), (prefill, decode + 1)):
            if more not in seen:
                seen.add(more)
                heapq.heappush(queue, (more[0] * cost[0] + more[1] * cost[1], *more))


def _least(enough: Callable[[int], bool]) -> int:
    """The smallest count from 1 that is enough, by doubling and halving."""
    high = 1
    while high < PLENTY and not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high
