"""What was measured against what the model gives back, curve by curve.

Measured points are read from the profiles' files anew, without the code that makes curves of them. Waiting for prefill was not measured:
there the model's formula stands against a queue that is played request by request.
"""

from __future__ import annotations

import csv
import heapq
from collections.abc import Sequence
from importlib import resources
from statistics import fmean
from typing import Final

import msgspec
import numpy as np

from heteroscale.simulator.model import engines, profiles

H20_CONTEXT: Final = 4096 + 1536 / 2
ENGINES: Final = 4
SERVICE_S: Final = 0.2
PROMPT_CV: Final = 1.0
LOADS: Final = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9)
ARRIVALS: Final = 60_000
WITHIN_S: Final = 1.5
HEADER: Final = ("curve", "points", "mean error", "largest error")


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: `series` sets curves of one kind apart (a context length), `x` is where it was taken."""

    series: str
    x: float
    measured: float
    model: float

    @property
    def error(self) -> float:
        """Relative."""
        return abs(self.model / self.measured - 1.0)


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Points of one kind, with the worst and the mean relative error."""

    name: str
    x: str
    y: str
    against: str
    points: list[Point]
    error_mean: float
    error_max: float


def curves() -> list[Curve]:
    """All of them."""
    return [prefill_ttft(), prefill_between(), decode_itl(), decode_plateau(), h20_itl(), waiting()]


def _curve(name: str, axes: tuple[str, str], points: list[Point], against: str = "measured") -> Curve:
    errors = [point.error for point in points]
    mean, most = round(fmean(errors), 6), round(max(errors), 6)
    return Curve(name=name, x=axes[0], y=axes[1], against=against, points=points, error_mean=mean, error_max=most)


def _rows(path: str) -> list[dict[str, str]]:
    text = resources.files("heteroscale.simulator").joinpath(f"data/profiles/{path}").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def prefill_ttft() -> Curve:
    """Time an idle engine takes for a prompt."""
    curve = profiles.load("h200_llama8b").prefill["H200"]
    points = []
    for row in _rows("h200_llama8b/H200_TP1_prefill.csv"):
        isl = float(row["isl"])
        points.append(Point(series="", x=isl, measured=float(row["ttft_ms"]) / 1000, model=round(float(curve.seconds(isl)), 9)))
    return _curve("H200 prefill, idle TTFT", ("prompt tokens", "s"), points)


def prefill_between() -> Curve:
    """Tokens/s at each length as they follow from its neighbours alone: the error between measured lengths, at twice their distance."""
    rows = sorted((float(row["isl"]), float(row["thpt_tok_per_s_per_gpu"])) for row in _rows("h200_llama8b/H200_TP1_prefill.csv"))
    points = []
    for (isl_0, rate_0), (isl, rate), (isl_1, rate_1) in zip(rows, rows[1:], rows[2:], strict=False):
        curve = profiles.PrefillCurve(1.0, np.array([isl_0, isl_1]), np.array([rate_0, rate_1]), "")
        points.append(Point(series="", x=isl, measured=rate, model=round(float(curve.rate(isl)), 6)))
    return _curve("H200 prefill, throughput from its neighbours", ("prompt tokens", "tokens/s"), points)


def decode_itl() -> Curve:
    """Inter-token latency at the throughput it was measured at, up to each context's plateau."""
    curve = profiles.load("h200_llama8b").decode["H200"]
    points = []
    for context, rows in _by_context().items():
        best = 0.0
        for rate, itl_s in rows:
            if rate > best:
                best = rate
                model = float(curve.latency_s(rate / float(curve.peak_rate(context)), context))
                points.append(Point(series=f"context {context:g}", x=rate, measured=itl_s, model=round(model, 9)))
    return _curve("H200 decode, inter-token latency", ("tokens/s", "s"), points)


def decode_plateau() -> Curve:
    """The most tokens/s a context gives."""
    curve = profiles.load("h200_llama8b").decode["H200"]
    points = [
        Point(series="", x=context, measured=max(rate for rate, _ in rows), model=round(float(curve.peak_rate(context)), 6))
        for context, rows in _by_context().items()
    ]
    return _curve("H200 decode, plateau", ("context tokens", "tokens/s"), points)


def _by_context() -> dict[float, list[tuple[float, float]]]:
    """(tokens/s, inter-token latency s) by context, in the order of KV use."""
    found: dict[float, list[tuple[float, float]]] = {}
    for row in sorted(_rows("h200_llama8b/H200_TP1_decode.csv"), key=lambda row: (float(row["context_length"]), float(row["kv_usage"]))):
        found.setdefault(float(row["context_length"]), []).append((float(row["thpt_tok_per_s_per_gpu"]), float(row["itl_ms"]) / 1000))
    return found


def h20_itl() -> Curve:
    """DeepSeek-R1 on H20: latency is batch over tokens/s; the model is asked at the measured tokens/s."""
    curve = profiles.load("h20_deepseek_r1").decode["H20"]
    rows = _rows("h20_deepseek_r1/h20_deepseek_r1.csv")
    kept = [row for row in rows if row["parallelism"] == "DP16+EP16" and row["mtp_steps"] == "1" and "EP32" not in row["note"]]
    points = []
    for row in sorted(kept, key=lambda row: float(row["batch_per_gpu"])):
        rate = float(row["value"])
        model = float(curve.latency_s(rate * curve.engine_gpus / float(curve.peak_rate(H20_CONTEXT)), H20_CONTEXT))
        points.append(Point(series="", x=rate, measured=float(row["batch_per_gpu"]) / rate, model=round(model, 9)))
    return _curve("H20 decode, inter-token latency", ("tokens/s a GPU", "s"), points)


def waiting() -> Curve:
    """Share of requests within the TTFT target over load: the formula against a queue played request by request."""
    spread = engines.prompt_spread(PROMPT_CV)
    points = []
    for load in LOADS:
        formula = engines.queueing(load, float(ENGINES), SERVICE_S, PROMPT_CV)
        model = float(engines.ttft_within(WITHIN_S, 0.0, formula, np.array([SERVICE_S]) * spread))
        points.append(Point(series="", x=load, measured=round(played_within(load, WITHIN_S), 6), model=round(model, 6)))
    return _curve(f"prefill, requests within {WITHIN_S:g} s, {ENGINES} engines", ("load", "share"), points, "played by requests")


def played_within(load: float, within_s: float) -> float:
    """Poisson arrivals, lognormal prompts, first come first served on ENGINES engines; the share whose first token is in time."""
    draw = np.random.default_rng(1)  # noqa: TID251 - a seeded Generator, of the queue that is played
    sigma2 = np.log1p(PROMPT_CV**2)
    service = SERVICE_S * draw.lognormal(-sigma2 / 2, np.sqrt(sigma2), ARRIVALS)
    arrives = np.cumsum(draw.exponential(SERVICE_S / (ENGINES * load), ARRIVALS))
    free = [0.0] * ENGINES
    met = 0
    for at, needs in zip(arrives.tolist(), service.tolist(), strict=True):
        ends = max(at, heapq.heappop(free)) + needs
        heapq.heappush(free, ends)
        met += ends - at <= within_s
    return met / ARRIVALS


def cells(curve: Curve) -> Sequence[str]:
    """One line of the table."""
    return [curve.name, str(len(curve.points)), f"{curve.error_mean * 100:.2f} %", f"{curve.error_max * 100:.2f} %"]
