"""How loaded engines behave: latency of prefill and decode as functions of load, elementwise over arrays.

The same formulas run in the world, step by step, and in the search for a static fleet, over a whole day at once.
Times in seconds, rates in tokens per second. Pure.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from heteroscale.simulator.model.profiles import DecodeCurve, PrefillCurve

Floats = npt.NDArray[np.float64]

RHO_MAX: Final = 0.98  # beyond it the waiting that grows is the backlog's, which is counted as such
QUANTILES: Final = 9
ITL_SPREAD: Final = 0.1  # modelled: spread of single inter-token gaps around the measured mean
ACROSS_S2: Final = 0.8  # bandwidth left when the pair spans s2
PATIENCE_S: Final = 120.0  # a request that would wait longer for a slot is given up by its client
_LOGISTIC: Final = 1.702  # logistic curve that follows the normal distribution within 1 %


@dataclass(frozen=True, slots=True)
class Waiting:
    """Waiting for a free prefill slot: its probability, and its mean length for those who wait."""

    probability: Floats
    mean_s: Floats

    def requests(self, per_s: Floats | float) -> Floats:
        """How many wait on average when so many come per second (Little's law)."""
        return np.asarray(per_s * self.probability * self.mean_s)


def queueing(rho: Floats | float, servers: Floats | float, service_s: Floats | float, cv: float) -> Waiting:
    """M/G/c waiting by Sakasegawa's approximation (1977): P(wait) = rho^(sqrt(2(c+1))-1), mean by service time and its spread."""
    busy = np.minimum(np.maximum(rho, 1e-9), RHO_MAX)
    count = np.maximum(servers, 1.0)
    probability = busy ** (np.sqrt(2.0 * (count + 1.0)) - 1.0)
    mean = service_s * (1.0 + cv * cv) / 2.0 / (count * (1.0 - busy))
    return Waiting(np.asarray(probability), np.asarray(np.maximum(mean, 1e-9)))


@functools.cache
def prompt_spread(cv: float) -> Floats:
    """Prompt lengths relative to their mean at equal-probability points of a lognormal, shape (QUANTILES,), mean 1. Read-only."""
    sigma = float(np.sqrt(np.log1p(cv * cv)))
    points = np.array([NormalDist().inv_cdf((index + 0.5) / QUANTILES) for index in range(QUANTILES)])
    relative = np.exp(sigma * points)
    spread = np.asarray(relative / relative.mean())
    spread.flags.writeable = False
    return spread


def ttft_within(limit_s: Floats | float, fixed_s: Floats | float, waiting: Waiting, service_s: Floats) -> Floats:
    """Share of requests whose first token comes within `limit_s`.

    `fixed_s` is what all requests of the step bear (backlog, hand-over, wait for a decode slot); `service_s` has the
    prompt lengths on its last axis. The wait is zero or exponential.
    """
    left = (np.asarray(limit_s) - fixed_s)[..., None] - service_s
    tail = waiting.probability[..., None] * np.exp(-np.maximum(left, 0.0) / waiting.mean_s[..., None])
    return np.asarray(np.where(left >= 0, 1.0 - tail, 0.0).mean(axis=-1))


def itl_within(limit_s: Floats | float, itl_s: Floats | float) -> Floats:
    """Share of inter-token gaps within `limit_s` when their mean is `itl_s`, lognormal with ITL_SPREAD."""
    score = np.log(np.asarray(limit_s) / np.maximum(itl_s, 1e-9)) / ITL_SPREAD
    return np.asarray(1.0 / (1.0 + np.exp(np.clip(-_LOGISTIC * score, -60.0, 60.0))))


def hand_over_s(prompt_tokens: Floats | float, kv_bytes_per_token: float, link_bytes_per_s: float, locality: float) -> Floats:
    """Time to move a prompt's KV cache to its decode engine; `locality` 1 inside an s2, ACROSS_S2 beyond it."""
    return np.asarray(np.asarray(prompt_tokens) * kv_bytes_per_token / (link_bytes_per_s * locality))


def prefill_rates(curve: PrefillCurve, gpus: Floats | float, prompt_tokens: Floats | float) -> Floats:
    """Tokens/s of instances with `gpus` GPUs."""
    return np.asarray(curve.rate(prompt_tokens) * gpus / curve.engine_gpus)


def decode_rates(curve: DecodeCurve, gpus: Floats | float, context: Floats | float) -> Floats:
    """Plateau tokens/s of instances with `gpus` GPUs."""
    return np.asarray(curve.peak_rate(context) * gpus / curve.engine_gpus)


def backlog(offered: Floats, capacity: Floats | float, limit: Floats | float) -> tuple[Floats, Floats]:
    """Backlog before and after each step when `offered` arrives and `capacity` is done, at most `limit` kept (Lindley)."""
    surplus = offered - capacity
    after = np.empty_like(surplus)
    held = 0.0
    limits = np.broadcast_to(limit, surplus.shape)
    if not np.any(surplus > 0):
        return np.zeros_like(surplus), np.zeros_like(surplus)
    for index, (more, most) in enumerate(zip(surplus.tolist(), limits.tolist(), strict=True)):
        held = min(max(0.0, held + more), most)
        after[index] = held
    return np.concatenate([[0.0], after[:-1]]), after
