"""Many steps of a service at once: the model of `service`, with engines of one role and GPU type taken together.

Engines of one type share a role's work evenly, so what they do together is all that a window or a figure needs. The cost of a
step does not grow with the number of engines. While nothing queues, steps are one array operation; a queue is walked step by step.
Conservation holds as in `service`: offered = finished + waiting + given up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.telemetry import EngineState
from heteroscale.simulator.load.traffic import CACHED, OUTPUT, PROMPT, REQUESTS
from heteroscale.simulator.model import engines
from heteroscale.simulator.model.curves import kind_of
from heteroscale.simulator.model.pool import Kind
from heteroscale.simulator.model.service import MISSED, ServiceModel

Floats = npt.NDArray[np.float64]

NOTHING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Part:
    """Engines of one role and GPU type. Active ones take traffic; `factor` is throughput per GPU relative to the curve."""

    role: str
    kind: Kind
    gpu_type: str
    gpus_active: float
    gpus_serving: float
    active: int
    serving: int
    factor: float

    @property
    def power(self) -> float:
        """GPUs that take traffic, in GPUs of the curve's type."""
        return self.gpus_active * self.factor


@dataclass(slots=True)
class Strength:
    """What a service has to serve with, until its engines change."""

    parts: list[Part]
    prefill: float = field(init=False)
    decode: float = field(init=False)
    prefill_gpus: float = field(init=False)

    def __post_init__(self) -> None:
        self.prefill = sum(part.power for part in self.parts if part.kind is Kind.PREFILL)
        self.decode = sum(part.power for part in self.parts if part.kind is Kind.DECODE)
        self.prefill_gpus = sum(part.gpus_active for part in self.parts if part.kind is Kind.PREFILL)


def strength_of(model: ServiceModel) -> Strength:
    """Count the engines by role and type."""
    sums: dict[tuple[str, str], list[float]] = {}
    for engine in model.engines.values():
        if engine.state is not EngineState.SERVING:
            continue
        row = sums.setdefault((engine.role, engine.gpu_type), [0.0, 0.0, 0.0, 0.0])
        row[1] += engine.gpus
        row[3] += 1
        if engine.takes_traffic:
            row[0] += engine.gpus
            row[2] += 1
    return Strength(
        [
            Part(role, kind_of(role, model.spec), gpu_type, row[0], row[1], int(row[2]), int(row[3]), model.curves.factor(role, gpu_type))
            for (role, gpu_type), row in sorted(sums.items())
        ]
    )


@dataclass(frozen=True, slots=True)
class Served:
    """What k steps came to; all of shape (k,), `waiting` too. Tokens and requests of the step, times in seconds.

    `prefill_waiting` and `decode_waiting` are requests at the step's end.
    """

    requests: Floats
    missed: Floats
    cached: Floats
    output: Floats
    busy: Floats
    fixed_s: Floats
    service_s: Floats
    context: Floats
    load: Floats
    itl_s: Floats
    kv: Floats
    waiting: engines.Waiting
    prefill_waiting: Floats
    decode_waiting: Floats


def serve(model: ServiceModel, first: int, last: int, step_s: float, strength: Strength) -> Served:
    """Serve steps [first, last) of the load with engines that do not change meanwhile."""
    offered = model.load[first:last].copy()
    offered[:, PROMPT] = np.maximum(0.0, offered[:, PROMPT] - offered[:, CACHED])
    model.ledger.offered += offered.sum(axis=0)
    done = _without_queue(model, offered, step_s, strength)
    if done is None:
        done = _with_queue(model, offered, step_s, strength)
    curves = model.curves
    rate = np.maximum(curves.prefill.rate(done.prompt) * (strength.prefill / curves.prefill.engine_gpus), NOTHING)
    servers = strength.prefill_gpus / curves.prefill.engine_gpus
    service_s = done.prompt * servers / rate
    waiting = engines.queueing(done.busy, servers, service_s, model.prompt_cv)
    itl_s, kv = curves.decode.at(done.load, done.context)
    return Served(
        requests=done.requests,
        missed=done.missed,
        cached=done.cached,
        output=done.output,
        busy=done.busy,
        fixed_s=done.held_s + engines.hand_over_s(done.prompt, *_link(model)),
        service_s=service_s,
        context=done.context,
        load=done.load,
        itl_s=itl_s,
        kv=kv,
        waiting=waiting,
        prefill_waiting=done.prefill_queue + waiting.requests(done.requests / step_s),
        decode_waiting=done.decode_queue,
    )


def _link(model: ServiceModel) -> tuple[float, float, float]:
    profile = model.curves.profile
    return profile.kv_bytes_per_token, profile.link_bytes_per_s, model.locality


@dataclass(frozen=True, slots=True)
class _Done:
    """What went through in k steps, before latency; all of shape (k,). Queues are requests that were left over at the step's end."""

    requests: Floats
    missed: Floats
    cached: Floats
    output: Floats
    busy: Floats
    held_s: Floats
    prompt: Floats
    context: Floats
    load: Floats
    prefill_queue: Floats
    decode_queue: Floats


def _without_queue(model: ServiceModel, offered: Floats, step_s: float, strength: Strength) -> _Done | None:
    """All steps at once; null if anything has to wait beyond its step."""
    if model.prefill_queue[REQUESTS] > NOTHING or model.decode_queue[REQUESTS] > NOTHING or not (strength.prefill and strength.decode):
        return None
    requests = offered[:, REQUESTS]
    there = np.maximum(requests, NOTHING)
    prompt = np.where(requests > 0, np.maximum(1.0, offered[:, MISSED] / there), model.prompt)
    context = np.where(requests > 0, prompt + (offered[:, CACHED] + offered[:, OUTPUT] / 2) / there, model.context)
    curves = model.curves
    busy = offered[:, MISSED] / (curves.prefill.rate(prompt) * (strength.prefill / curves.prefill.engine_gpus * step_s))
    load = offered[:, OUTPUT] / (curves.decode.peak_rate(context) * (strength.decode / curves.decode.engine_gpus * step_s))
    if busy.max() > 1.0 or load.max() > 1.0:
        return None
    model.prompt, model.context = float(prompt[-1]), float(context[-1])
    model.ledger.finished += offered.sum(axis=0)
    nothing = np.zeros(len(offered))
    return _Done(
        requests, offered[:, MISSED], offered[:, CACHED], offered[:, OUTPUT], busy, nothing, prompt, context, load, nothing, nothing
    )


def _with_queue(model: ServiceModel, offered: Floats, step_s: float, strength: Strength) -> _Done:
    """Step by step."""
    table = np.array([_one_step(model, row, step_s, strength) for row in offered])
    return _Done(*np.ascontiguousarray(table.T))


def _one_step(model: ServiceModel, offered: Floats, step_s: float, strength: Strength) -> tuple[float, ...]:
    curves, queue = model.curves, model.prefill_queue + offered
    requests = float(queue[REQUESTS])
    if requests > 0:
        model.prompt = max(1.0, float(queue[MISSED]) / requests)
        model.context = model.prompt + float(queue[CACHED]) / requests + float(queue[OUTPUT]) / requests / 2
    rate = float(curves.prefill.rate(model.prompt)) * strength.prefill / curves.prefill.engine_gpus
    before = float(model.prefill_queue[MISSED])
    part = min(1.0, rate * step_s / float(queue[MISSED])) if queue[MISSED] > 0 else float(rate > 0)
    through = queue * part
    model.prefill_queue = _within_patience(model, queue - through, (MISSED, rate, float(offered[MISSED]) / step_s))
    busy = float(through[MISSED]) / (rate * step_s) if rate > 0 else 0.0
    held = (before + float(model.prefill_queue[MISSED])) / 2 / rate if rate > 0 else 0.0

    rate = float(curves.decode.peak_rate(model.context)) * strength.decode / curves.decode.engine_gpus
    before = float(model.decode_queue[OUTPUT])
    queue = model.decode_queue + through
    part = min(1.0, rate * step_s / float(queue[OUTPUT])) if queue[OUTPUT] > 0 else 1.0
    done = queue * part
    model.decode_queue = _within_patience(model, queue - done, (OUTPUT, rate, float(through[OUTPUT]) / step_s))
    model.ledger.finished += done
    load = float(done[OUTPUT]) / (rate * step_s) if rate > 0 else 0.0
    held += (before + float(model.decode_queue[OUTPUT])) / 2 / rate if rate > 0 else 0.0
    left = (model.prefill_queue[REQUESTS], model.decode_queue[REQUESTS])
    found = (through[REQUESTS], through[MISSED], through[CACHED], done[OUTPUT], busy, held, model.prompt, model.context, load, *left)
    return tuple(map(float, found))


def _within_patience(model: ServiceModel, queue: Floats, limit: tuple[int, float, float]) -> Floats:
    """Requests that would wait longer than their clients do are given up; `limit` is (column, rate served, rate offered)."""
    column, rate, arriving = limit
    tokens = engines.PATIENCE_S * max(rate, arriving)
    keep = min(1.0, tokens / float(queue[column])) if queue[column] > tokens else 1.0
    model.ledger.given_up += queue * (1 - keep)
    return np.asarray(queue * keep)


@dataclass(frozen=True, slots=True)
class Latency:
    """Shares of each step's requests (TTFT) and gaps (TBT) at or below each edge, shape (k, edges)."""

    ttft: Floats
    tbt: Floats


def latency(model: ServiceModel, served: Served, edges: tuple[Floats, Floats]) -> Latency:
    """Latency of what was served, as `service` has it."""
    wide = engines.Waiting(served.waiting.probability[:, None], served.waiting.mean_s[:, None])
    service = served.service_s[:, None, None] * engines.prompt_spread(model.prompt_cv)
    ttft = engines.ttft_within(edges[0][None, :], served.fixed_s[:, None], wide, service)
    return Latency(ttft, engines.itl_within(edges[1][None, :], served.itl_s[:, None]))
