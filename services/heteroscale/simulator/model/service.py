"""One simulated service: requests wait for prefill, hand over their KV cache, and are decoded. A fluid model, step by step.

Conservation holds at every step: offered = finished + waiting for prefill + waiting for decode + given up. Requests live
seconds and steps last seconds, so what is inside an engine is taken as finished within its step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import InstanceSample
from heteroscale.simulator.load.traffic import CACHED, OUTPUT, PROMPT, REQUESTS, Traffic
from heteroscale.simulator.model import engines
from heteroscale.simulator.model.curves import Curves, kind_of
from heteroscale.simulator.model.pool import Engine, Kind, Pool

Floats = npt.NDArray[np.float64]

TTFT_EDGES_S: Final = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
TBT_EDGES_S: Final = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0)
MISSED = PROMPT  # in the prefill queue the prompt column holds what the prefix cache does not


@dataclass(slots=True)
class Ledger:
    """Requests and tokens since the start of the run, as queues hold them; the test of conservation reads it."""

    offered: Floats = field(default_factory=lambda: np.zeros(4))
    finished: Floats = field(default_factory=lambda: np.zeros(4))
    given_up: Floats = field(default_factory=lambda: np.zeros(4))


@dataclass(slots=True)
class ServiceModel:
    """State of one service. Queues hold (requests, prompt tokens still to prefill, output tokens, cached prompt tokens)."""

    spec: ServiceSpec
    curves: Curves
    load: Floats
    prompt_cv: float
    engines: dict[str, Engine] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    prefill_queue: Floats = field(default_factory=lambda: np.zeros(4))
    decode_queue: Floats = field(default_factory=lambda: np.zeros(4))
    ledger: Ledger = field(default_factory=Ledger)
    locality: float = 1.0
    context: float = 1.0
    prompt: float = 1.0
    changes: int = 0
    stale: bool = True

    def refresh(self) -> None:
        """Engines came, went or changed state. Pools take it over when they are needed next."""
        self.changes += 1
        self.stale = True

    def _take_over(self) -> None:
        if not self.stale:
            return
        self.stale = False
        for role in sorted({*self.spec.roles, *(engine.role for engine in self.engines.values())}):
            if role not in self.pools:
                self.pools[role] = Pool(role, edges_of(self.spec, kind_of(role, self.spec)))
            self.pools[role].refresh(self.engines)

    def waiting(self) -> Floats:
        """Requests and tokens that are inside and not finished, in the order of a queue's columns."""
        return np.asarray(self.prefill_queue + self.decode_queue)

    def step(self, index: int, step_s: float) -> None:
        """Serve one step of the load."""
        self._take_over()
        offered = self.load[index].copy()
        offered[PROMPT] = max(0.0, offered[PROMPT] - offered[CACHED])
        self.ledger.offered += offered
        self._mean_lengths(offered)
        through, wait = self._prefill(offered, step_s)
        decode_wait_s = self._decode(through, step_s)
        self._observe_ttft(through, wait, decode_wait_s)

    def _mean_lengths(self, offered: Floats) -> None:
        waiting = offered + self.prefill_queue
        if waiting[REQUESTS] > 0:
            self.prompt = float(max(1.0, waiting[MISSED] / waiting[REQUESTS]))
            whole = self.prompt + float(waiting[CACHED] / waiting[REQUESTS])
            self.context = whole + float(waiting[OUTPUT] / waiting[REQUESTS]) / 2

    def _of_kind(self, kind: Kind) -> list[Pool]:
        return [pool for role, pool in sorted(self.pools.items()) if kind_of(role, self.spec) is kind]

    def _prefill(self, offered: Floats, step_s: float) -> tuple[Floats, _PrefillWait]:
        curve, pools = self.curves.prefill, self._of_kind(Kind.PREFILL)
        for pool in pools:
            for kind, rows, gpus in pool.types():
                pool.capacity[rows] = engines.prefill_rates(curve, gpus[rows], self.prompt) * self.curves.factor(pool.role, kind)
        rate = float(sum(pool.capacity[pool.active].sum() for pool in pools))
        servers = sum(sum(engine.gpus for engine in pool.engines if engine.takes_traffic) for pool in pools) / curve.engine_gpus
        before = float(self.prefill_queue[MISSED])
        queue = self.prefill_queue + offered
        # prompts found whole in the prefix cache need no work and pass as soon as anybody serves
        part = min(1.0, rate * step_s / queue[MISSED]) if queue[MISSED] > 0 else float(rate > 0)
        through = queue * part
        self.prefill_queue = self._within_patience(queue - through, offered, rate, step_s)
        busy = float(through[MISSED]) / (rate * step_s) if rate > 0 else 0.0
        held = (before + float(self.prefill_queue[MISSED])) / 2 / rate if rate > 0 else 0.0
        service = float(curve.seconds(self.prompt)) * servers * float(curve.rate(self.prompt)) / rate if rate > 0 else 0.0
        waiting = engines.queueing(busy, servers, service, self.prompt_cv)
        there = float(self.prefill_queue[REQUESTS]) + float(waiting.requests(float(through[REQUESTS]) / step_s))
        for pool in pools:
            self._count_prefill(pool, through, (busy, rate, there))
        return through, _PrefillWait(waiting, service, held)

    def _count_prefill(self, pool: Pool, through: Floats, now: tuple[float, float, float]) -> None:
        """`now` is the busy share, tokens/s, and requests that wait: the backlog, and those between a step's arrivals."""
        busy, rate, there = now
        share = np.where(pool.active, pool.capacity, 0.0) / rate if rate > 0 else np.zeros(len(pool.engines))
        pool.prompt += share * (through[MISSED] + through[CACHED])
        pool.cached += share * through[CACHED]
        pool.finished += share * through[REQUESTS]
        level = np.where(pool.active, busy, 0.0)
        number = np.array([engine.gpus for engine in pool.engines]) / self.curves.prefill.engine_gpus
        pool.gauges = {
            "running": level * number,
            "waiting": share * there,
            "kv_usage": level * 0.5,
            "gpu_util": level,
            "sm_active": level * 0.9,
        }

    def _within_patience(self, queue: Floats, offered: Floats, rate: float, step_s: float) -> Floats:
        """Requests that would wait longer than their clients do are given up."""
        tokens = engines.PATIENCE_S * max(rate, float(offered[MISSED]) / step_s)
        keep = min(1.0, tokens / queue[MISSED]) if queue[MISSED] > tokens else 1.0
        self.ledger.given_up += queue * (1 - keep)
        return np.asarray(queue * keep)

    def _decode(self, through: Floats, step_s: float) -> float:
        curve, pools = self.curves.decode, self._of_kind(Kind.DECODE)
        for pool in pools:
            for kind, rows, gpus in pool.types():
                pool.capacity[rows] = engines.decode_rates(curve, gpus[rows], self.context) * self.curves.factor(pool.role, kind)
        rate = float(sum(pool.capacity[pool.active].sum() for pool in pools))
        before = float(self.decode_queue[OUTPUT])
        queue = self.decode_queue + through
        part = min(1.0, rate * step_s / queue[OUTPUT]) if queue[OUTPUT] > 0 else 1.0
        done = queue * part
        left = queue - done
        limit = engines.PATIENCE_S * max(rate, float(through[OUTPUT]) / step_s)
        keep = min(1.0, limit / left[OUTPUT]) if left[OUTPUT] > limit else 1.0
        self.ledger.given_up += left * (1 - keep)
        self.decode_queue = left * keep
        self.ledger.finished += done
        load = float(done[OUTPUT]) / (rate * step_s) if rate > 0 else 0.0
        for pool in pools:
            self._count_decode(pool, done, load, rate)
        return (before + float(self.decode_queue[OUTPUT])) / 2 / rate if rate > 0 else 0.0

    def _count_decode(self, pool: Pool, done: Floats, load: float, rate: float) -> None:
        count = len(pool.engines)
        share = np.where(pool.active, pool.capacity, 0.0) / rate if rate > 0 else np.zeros(count)
        tokens = share * done[OUTPUT]
        pool.tokens += tokens
        pool.finished += share * done[REQUESTS]
        itl = float(self.curves.decode.latency_s(load, self.context))
        pool.observe(tokens, engines.itl_within(pool.edges_s, itl), np.full(count, itl))
        number = np.array([engine.gpus for engine in pool.engines]) / self.curves.decode.engine_gpus
        batch = np.where(pool.active, pool.capacity, 0.0) * load * itl
        busy = 1.0 - np.exp(-batch / np.maximum(number, 1e-9))
        pool.gauges = {
            "running": batch,
            "waiting": share * self.decode_queue[REQUESTS],
            "kv_usage": np.where(pool.active, float(self.curves.decode.kv_usage(load, self.context)), 0.0),
            "gpu_util": busy,
            "sm_active": busy * (0.25 + 0.6 * load),
        }

    def _observe_ttft(self, through: Floats, wait: _PrefillWait, decode_wait_s: float) -> None:
        profile = self.curves.profile
        handed = float(engines.hand_over_s(self.prompt, profile.kv_bytes_per_token, profile.link_bytes_per_s, self.locality))
        fixed = wait.held_s + handed + decode_wait_s
        waiting = wait.waiting
        service = wait.service_s * engines.prompt_spread(self.prompt_cv)
        mean = fixed + float(waiting.probability * waiting.mean_s) + wait.service_s
        for pool in self._of_kind(Kind.PREFILL):
            share = pool.shares()
            within = engines.ttft_within(pool.edges_s, fixed, waiting, service)
            pool.observe(share * through[REQUESTS], within, np.full(len(share), mean))

    def samples(self, at_ms: int) -> list[InstanceSample]:
        """All engines' samples, by role and name."""
        self._take_over()
        found: list[InstanceSample] = []
        for role, pool in sorted(self.pools.items()):
            kind = kind_of(role, self.spec)
            found.extend(pool.samples(at_ms, kind, layout_of(kind)))
        return found


@dataclass(frozen=True, slots=True)
class _PrefillWait:
    waiting: engines.Waiting
    service_s: float
    held_s: float


def layout_of(kind: Kind) -> str:
    """Name of the bucket layout of a role's latency."""
    return "ttft" if kind is Kind.PREFILL else "tbt"


def edges_of(spec: ServiceSpec, kind: Kind) -> Floats:
    """Bucket edges in seconds: the usual ones and the service's own targets, so that attainment can be read off exactly."""
    latency = layout_of(kind)
    edges = set(TTFT_EDGES_S if kind is Kind.PREFILL else TBT_EDGES_S)
    target = slo_s(spec, latency)
    if target is not None:
        edges.add(target)
    return np.array(sorted(edges))


def slo_s(spec: ServiceSpec, latency: str) -> float | None:
    """The service's target in seconds: its `slo`, else the moderate threshold of its guard; null where it states neither."""
    stated = getattr(spec.slo, latency) if spec.slo else None
    if stated is None:
        stated = next((guard.moderate for guard in spec.guards if guard.latency == latency), None)
    return None if stated is None else stated.ms / 1000


def model_of(spec: ServiceSpec, curves: Curves, traffic: Traffic, step_s: float, seed: int) -> ServiceModel:
    """A service at rest, with its load drawn."""
    return ServiceModel(spec=spec, curves=curves, load=traffic.steps(step_s, seed), prompt_cv=traffic.prompt_cv)
