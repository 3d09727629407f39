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
from heteroscale.simulator import engines
from heteroscale.simulator.curves import kind_of
from heteroscale.simulator.pool import Kind
from heteroscale.simulator.service import MISSED, ServiceModel
from heteroscale.simulator.traffic import CACHED, OUTPUT, PROMPT, REQUESTS

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
    """What k steps came to; all of shape (k,). Tokens and requests of the step, times in seconds."""

    requests: Floats
    missed: Floats
    cached: Floats
    output: Floats
    busy: Floats
    fixed_s: Floats
    service_s: Floats
    prompt: Floats
    context: Floats
    load: Floats
    itl_s: Floats
    prefill_waiting: float
    decode_waiting: float


def serve(model: ServiceModel, first: int, last: int, step_s: float, strength: Strength) -> Served:
    """Serve steps [first, last) of the load with engines that do not change meanwhile."""
    offered = model.load[first:last].copy()
    offered[:, PROMPT] = np.maximum(0.0, offered[:, PROMPT] - offered[:, CACHED])
    model.ledger.offered += float(offered[:, REQUESTS].sum())
    columns = _without_queue(model, offered, step_s, strength)
    if columns is None:
        columns = _with_queue(model, offered, step_s, strength)
    requests, missed, cached, output, busy, fixed, prompt, context, load = columns
    rate = np.maximum(model.curves.prefill.rate(prompt) * strength.prefill / model.curves.prefill.engine_gpus, NOTHING)
    servers = strength.prefill_gpus / model.curves.prefill.engine_gpus
    return Served(
        requests=requests,
        missed=missed,
        cached=cached,
        output=output,
        busy=busy,
        fixed_s=fixed + engines.hand_over_s(prompt, *_link(model)),
        service_s=prompt * servers / rate if servers else np.zeros(len(prompt)),
        prompt=prompt,
        context=context,
        load=load,
        itl_s=model.curves.decode.latency_s(load, context),
        prefill_waiting=float(model.prefill_queue[REQUESTS]),
        decode_waiting=float(model.decode_queue[REQUESTS]),
    )


def _link(model: ServiceModel) -> tuple[float, float, float]:
    profile = model.curves.profile
    return profile.kv_bytes_per_token, profile.link_bytes_per_s, model.locality


Columns = tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats, Floats, Floats]


def _without_queue(model: ServiceModel, offered: Floats, step_s: float, strength: Strength) -> Columns | None:
    """All steps at once; null if anything has to wait beyond its step."""
    if model.prefill_queue[REQUESTS] > NOTHING or model.decode_queue[REQUESTS] > NOTHING or not (strength.prefill and strength.decode):
        return None
    requests = offered[:, REQUESTS]
    there = np.maximum(requests, NOTHING)
    prompt = np.where(requests > 0, np.maximum(1.0, offered[:, MISSED] / there), model.prompt)
    context = np.where(requests > 0, prompt + offered[:, CACHED] / there + offered[:, OUTPUT] / there / 2, model.context)
    curves = model.curves
    can = curves.prefill.rate(prompt) * (strength.prefill / curves.prefill.engine_gpus * step_s)
    can_decode = curves.decode.peak_rate(context) * (strength.decode / curves.decode.engine_gpus * step_s)
    if np.any(offered[:, MISSED] > can) or np.any(offered[:, OUTPUT] > can_decode):
        return None
    model.prompt, model.context = float(prompt[-1]), float(context[-1])
    model.ledger.finished += float(requests.sum())
    nothing = np.zeros(len(offered))
    return (
        requests,
        offered[:, MISSED],
        offered[:, CACHED],
        offered[:, OUTPUT],
        offered[:, MISSED] / can,
        nothing,
        prompt,
        context,
        offered[:, OUTPUT] / can_decode,
    )


def _with_queue(model: ServiceModel, offered: Floats, step_s: float, strength: Strength) -> Columns:
    """Step by step."""
    rows = [_one_step(model, offered[index], step_s, strength) for index in range(len(offered))]
    table = np.array(rows)
    return tuple(np.ascontiguousarray(table[:, column]) for column in range(9))  # type: ignore[return-value]  # nine of them


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
    model.ledger.finished += float(done[REQUESTS])
    load = float(done[OUTPUT]) / (rate * step_s) if rate > 0 else 0.0
    held += (before + float(model.decode_queue[OUTPUT])) / 2 / rate if rate > 0 else 0.0
    found = (through[REQUESTS], through[MISSED], through[CACHED], done[OUTPUT], busy, held, model.prompt, model.context, load)
    return tuple(map(float, found))


def _within_patience(model: ServiceModel, queue: Floats, limit: tuple[int, float, float]) -> Floats:
    """Requests that would wait longer than their clients do are given up; `limit` is (column, rate served, rate offered)."""
    column, rate, arriving = limit
    tokens = engines.PATIENCE_S * max(rate, arriving)
    keep = min(1.0, tokens / float(queue[column])) if queue[column] > tokens else 1.0
    model.ledger.given_up += float(queue[REQUESTS]) * (1 - keep)
    return np.asarray(queue * keep)


@dataclass(frozen=True, slots=True)
class Latency:
    """Shares of each step's requests (TTFT) and gaps (TBT) at or below each edge, shape (k, edges)."""

    ttft: Floats
    tbt: Floats


def latency(model: ServiceModel, served: Served, edges: tuple[Floats, Floats], strength: Strength) -> Latency:
    """Latency of what was served, as `service` has it."""
    servers = strength.prefill_gpus / model.curves.prefill.engine_gpus
    waiting = engines.queueing(served.busy, servers, served.service_s, model.prompt_cv)
    wide = engines.Waiting(waiting.probability[:, None], waiting.mean_s[:, None])
    service = served.service_s[:, None, None] * engines.prompt_spread(model.prompt_cv)
    ttft = engines.ttft_within(edges[0][None, :], served.fixed_s[:, None], wide, service)
    return Latency(ttft, engines.itl_within(edges[1][None, :], served.itl_s[:, None]))
