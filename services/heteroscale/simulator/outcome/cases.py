"""Cases: a trace, scaled to a fleet of readable size, and the spec that a pressure test on its mean lengths leads to.

The curation is what people do before they turn an autoscaler on: the rate one instance reaches within the SLO, and from the two
rates the P:D ratio. It reads the mean lengths of the trace and nothing of its course in time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

import numpy as np

from heteroscale.contracts import codec
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.simulator.load import traces
from heteroscale.simulator.load.traffic import CACHED, OUTPUT, PROMPT, REQUESTS, Traffic
from heteroscale.simulator.model import profiles

START_MS: Final = 1_767_571_200_000  # 2026-01-05T00:00Z, a Monday
PEAK_GPUS: Final = 64.0  # what the busiest five minutes need at the measured peak rates
PROFILE: Final = "h200_llama8b"
GPU: Final = "H200"
TTFT_S: Final = 1.5
TBT_S: Final = 0.025
NODES: Final = 64
INSTANCES_MAX: Final = 128  # of a role: twice what the whole peak needs
WEEK_S: Final = 604_800.0
CACHE_WAVES: Final = 6  # a day
CACHE_MEAN: Final = 0.4
CACHE_SWING: Final = 0.25


@dataclass(frozen=True, slots=True)
class Case:
    """A trace to be played, with these start-up times of an engine.

    `tuned_on` names the case whose runs choose the settings that are scored here.
    """

    name: str
    traffic: Callable[[], Traffic]
    tuned_on: str
    about: str
    hours: float
    startups_s: tuple[float, ...] = (120.0, 30.0, 300.0)

    def cut(self, hours: float | None) -> float | None:
        """How much is played when so much is asked for; null is all of it."""
        return None if hours is None or hours >= self.hours else hours


CASES: Final[Mapping[str, Case]] = {
    case.name: case
    for case in (
        Case("azure-2024-code", lambda: traces.load("azure-2024-code"), "azure-2024-conv", "Azure 2024 code, a weekday", 24.0),
        Case("azure-2024-conv", lambda: traces.load("azure-2024-conv"), "azure-2024-code", "Azure 2024 conversation, a weekday", 24.0),
        Case("azure-2023-conv", lambda: traces.load("azure-2023-conv"), "azure-2024-conv", "Azure 2023 conversation, an hour", 1.0),
        Case(
            "servegen-week-1",
            lambda: traces.piece(traces.load("servegen-m-small"), 0.0, WEEK_S),
            "servegen-week-2",
            "ServeGen m-small, first week",
            168.0,
            (120.0,),
        ),
        Case(
            "servegen-week-2",
            lambda: traces.piece(traces.load("servegen-m-small"), WEEK_S, 2 * WEEK_S),
            "servegen-week-1",
            "ServeGen m-small, second week",
            168.0,
            (120.0,),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance under pressure: tokens/s of prefill, and of decode within the TBT target, at the trace's mean lengths."""

    prefill_tps: float
    decode_tps: float
    ratio: Mapping[str, int]


def scaled(trace: Traffic) -> Traffic:
    """The trace at a load whose busiest five minutes need PEAK_GPUS at the measured rates."""
    at = reference(trace)
    step = max(1, round(300.0 / float(np.diff(trace.edges_s)[0])))
    count = len(trace.totals) // step * step or len(trace.totals)
    blocks = trace.totals[:count].reshape(-1, min(step, count), 4).sum(axis=1)
    seconds = float(trace.edges_s[min(step, count)] - trace.edges_s[0])
    missed = blocks[:, PROMPT] - blocks[:, CACHED]
    need = (missed / at.prefill_tps + blocks[:, OUTPUT] / at.decode_tps) / seconds
    return trace.scaled(PEAK_GPUS / float(need.max()))


def cached(trace: Traffic) -> Traffic:
    """The trace with prompts that the prefix cache holds in part, on top of those it states; what is missed stays the same.

    The share is modelled, a wave around 40 % six times a day, since no public trace states it.
    """
    middle = (trace.edges_s[:-1] + trace.edges_s[1:]) / 2
    share = CACHE_MEAN + CACHE_SWING * np.sin(2 * np.pi * CACHE_WAVES * middle / 86_400.0)
    totals = trace.totals.copy()
    missed = totals[:, PROMPT] - totals[:, CACHED]
    totals[:, PROMPT] = missed / (1 - share)
    totals[:, CACHED] = totals[:, PROMPT] - missed
    return Traffic(trace.name, trace.edges_s, totals, trace.prompt_cv, trace.smooth)


def reference(trace: Traffic) -> Reference:
    """The pressure test."""
    profile = profiles.load(PROFILE)
    total = trace.totals.sum(axis=0)
    missed = float((total[PROMPT] - total[CACHED]) / total[REQUESTS])
    context = float(total[PROMPT] / total[REQUESTS] + total[OUTPUT] / total[REQUESTS] / 2)
    prefill = float(profile.prefill[GPU].rate(missed))
    decode = profile.decode[GPU].rate_within(context, TBT_S)
    need = (missed / prefill) / (float(total[OUTPUT] / total[REQUESTS]) / decode)
    part = Fraction(need).limit_denominator(4) if need >= 1 else 1 / Fraction(1 / need).limit_denominator(4)
    return Reference(prefill, decode, {"prefill": part.numerator, "decode": part.denominator})


def spec_of(trace: Traffic, share: float) -> ServiceSpec:
    """The spec with targets at `share` of the reference rates."""
    at = reference(trace)
    roles = {role: {"min": 1, "max": INSTANCES_MAX, "gpus": 1, "gpu_types": [{"type": GPU}]} for role in at.ratio}
    lead = "decode" if at.ratio["decode"] >= at.ratio["prefill"] else "prefill"
    signals = [
        {"metric": "decode_tps", "role": "decode", "target": share * at.decode_tps},
        {"metric": "prefill_missed_tps", "role": "prefill", "target": share * at.prefill_tps},
    ]
    return codec.convert(
        ServiceSpec,
        {
            "service": "svc",
            "mode": "active",
            "slo": {"ttft": f"{TTFT_S * 1000:g}ms", "tbt": f"{TBT_S * 1000:g}ms"},
            "roles": roles,
            "ratio": dict(at.ratio),
            "window": {"size": "60s", "hop": "60s", "interval": "5s", "allowed_lateness": "5s", "silence": "20s"},
            "signals": signals if lead == "decode" else signals[::-1],
            "guards": [_guard("ttft", TTFT_S), _guard("tbt", TBT_S)],
            "behavior": {
                "scale_out": {"tolerance": "5%", "cooldown": "0s"},
                "scale_in": {
                    "tolerance": "10%",
                    "stabilization": "600s",
                    "cooldown": "60s",
                    "policies": [{"type": "percent", "value": 20, "period": "60s"}],
                    "soft": {"observe": "60s"},
                },
            },
        },
    )


def _guard(latency: str, target_s: float) -> dict[str, object]:
    """Half of the TTFT target alarms already, since a queue hides demand from throughput; TBT, which has no queue, at its target."""
    early = 0.5 if latency == "ttft" else 1.0
    steps = {"moderate": f"{target_s * 1000 * early:g}ms", "severe": f"{target_s * 2000 * early:g}ms"}
    return {"latency": latency, "quantile": "p95", **steps, "moderate_step": "25%", "severe_step": "50%"}


def fleet() -> list[FleetNode]:
    """NODES nodes of 8 GPUs in 4 s2, 4 nodes an s1: room for every policy, so that scarcity is no part of the comparison."""
    return [
        codec.convert(
            FleetNode,
            {
                "node": f"n{index:03d}",
                "fleet": "default",
                "gpu_type": GPU,
                "gpus": 8,
                "at": {"cluster": "c1", "s2": f"s{index // 16}", "s1": f"l{index // 4}"},
            },
        )
        for index in range(NODES)
    ]


def with_startup(startup_s: float) -> profiles.Profile:
    """The profile with another start-up time."""
    return replace(profiles.load(PROFILE), startup_s=startup_s)
