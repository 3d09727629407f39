"""Who decides: the policies by name, each with its documented defaults or with its main setting tuned.

A policy replaces the decision service alone: signals, placement, fleet and engines are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.simulator.baselines import timed
from heteroscale.simulator.baselines.apa import DECODE_OF_POOL, PREFILL_OF_POOL, ApaRule
from heteroscale.simulator.baselines.hpa import HpaRule, HpaTuning
from heteroscale.simulator.baselines.kpa import KpaRule, KpaTuning
from heteroscale.simulator.baselines.kthena import Kthena, KthenaTuning
from heteroscale.simulator.baselines.llmd import SaturationRule, SaturationTuning
from heteroscale.simulator.baselines.policy import Apart, Policy
from heteroscale.simulator.load.traffic import OUTPUT, PROMPT, REQUESTS
from heteroscale.simulator.model import service
from heteroscale.simulator.model.curves import kind_of
from heteroscale.simulator.model.pool import Kind
from heteroscale.simulator.model.static import Day, smallest

OURS: Final = "heteroscale"
STATIC_TARGET: Final = 0.99
HALF_HOUR_MS: Final = 1_800_000

ABOUT: Final[Mapping[str, str]] = {
    OURS: "the decision service itself",
    "static-peak": "the smallest fixed P:D fleet that keeps 99 % of the trace's requests within SLO, found by search",
    "schedule": "periodic: for each hour the smallest fleet of a day that was seen before, 10 % on top, half an hour ahead",
    "hpa-gpu": "Kubernetes 1.37 HPA v2 on mean GPU utilisation, target 80 %, prefill and decode apart, default behaviour",
    "kpa": "like Knative 1.20: concurrency, target 100 x 70 %, stable 60 s, panic at twice what is ready, roles apart",
    "keda-llm-d": "llm-d workload variant autoscaler 0.7.0 by KEDA: spare KV cache and queue, one replica at a time, roles apart",
    "aibrix-apa": "AIBrix 0.6 APA as its sample for pools: prefill on queue length (10), decode on KV cache use (0.7), roles apart",
    "kthena": "Kthena 0.4 disaggregated: requests per instance for each role, then a P:D band of 25 % around the ratio",
    "clairvoyant": "knows the trace and pays only start-up: the lower bound",
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What a policy may know. `day` is the load it will see (only static-peak and clairvoyant look), `history` one it has seen.

    `setting` is the policy's main setting (None: the documented default): utilisation or KV target, share of an engine's concurrency
    or of the documented targets, margin of a schedule, attainment target of static-peak and clairvoyant.
    """

    spec: ServiceSpec
    day: Day
    start_ms: int
    history: Day | None = None
    setting: float | None = None


def build(name: str, setup: Setup) -> Policy:
    """A policy for one service. Raises Rejected for a name that is none."""
    maker = _MAKERS.get(name)
    if maker is None:
        raise Rejected("policy", f"no policy {name!r}; have {', '.join(ABOUT)}", "--policy")
    return maker(setup)


def _schedule(setup: Setup) -> Policy:
    margin = 0.1 if setup.setting is None else setup.setting
    return timed.Periodic(setup.spec, timed.hourly(setup.history or setup.day, STATIC_TARGET, margin), setup.start_ms, HALF_HOUR_MS)


def _hpa(setup: Setup) -> Policy:
    tuning = HpaTuning() if setup.setting is None else HpaTuning(utilization=setup.setting)
    return Apart(setup.spec, {role: HpaRule(tuning) for role in setup.spec.roles})


def _kpa(setup: Setup) -> Policy:
    tunings = {role: KpaTuning() for role in setup.spec.roles}
    if setup.setting is not None:
        tunings = {role: KpaTuning(target=setup.setting * most, utilization=1.0) for role, most in concurrency(setup).items()}
    return Apart(setup.spec, {role: KpaRule(tuning) for role, tuning in tunings.items()})


def _llm_d(setup: Setup) -> Policy:
    tuning = SaturationTuning() if setup.setting is None else SaturationTuning(kv_threshold=setup.setting)
    return Apart(setup.spec, {role: SaturationRule(tuning) for role in setup.spec.roles})


def _apa(setup: Setup) -> Policy:
    share = 1.0 if setup.setting is None else setup.setting
    rules = {}
    for role in setup.spec.roles:
        documented = DECODE_OF_POOL if kind_of(role, setup.spec) is Kind.DECODE else PREFILL_OF_POOL
        rules[role] = ApaRule(msgspec.structs.replace(documented, target=share * documented.target))
    return Apart(setup.spec, rules)


def _kthena(setup: Setup) -> Policy:
    targets = {} if setup.setting is None else {role: setup.setting * most for role, most in concurrency(setup).items()}
    return Kthena(setup.spec, KthenaTuning(targets=targets))


def concurrency(setup: Setup) -> dict[str, float]:
    """Requests inside one instance of each role at its peak within the SLO, at the mean lengths of what was seen before."""
    load, curves = (setup.history or setup.day).load, setup.day.curves
    requests = max(float(load[:, REQUESTS].sum()), 1e-9)
    prompt, output = float(load[:, PROMPT].sum()) / requests, float(load[:, OUTPUT].sum()) / requests
    context = prompt + output / 2
    rate = curves.decode.rate_within(context, service.slo_s(setup.spec, "tbt"))
    batch = rate * float(curves.decode.latency_s(np.asarray(rate / float(curves.decode.peak_rate(context))), context))
    found = {}
    for role in sorted(setup.spec.roles):
        kind = kind_of(role, setup.spec)
        per_engine = batch / curves.decode.engine_gpus if kind is Kind.DECODE else 1.0 / curves.prefill.engine_gpus
        found[role] = max(1e-6, per_engine * setup.day.gpus(kind))
    return found


def _static(setup: Setup) -> Policy:
    fleet = smallest(setup.day, STATIC_TARGET if setup.setting is None else setup.setting)
    by_kind = {Kind.PREFILL: fleet.prefill, Kind.DECODE: fleet.decode}
    return timed.Fixed({role: by_kind.get(kind_of(role, setup.spec), bounds.min) for role, bounds in sorted(setup.spec.roles.items())})


def _clairvoyant(setup: Setup) -> Policy:
    profile, window = setup.day.curves.profile, setup.spec.window
    slack_s = (window.hop.ms + window.interval.ms + window.allowed_lateness.ms) / 1000
    lead_s = profile.startup_s * (1 + profile.startup_spread) + slack_s
    table = timed.clairvoyant(setup.day, STATIC_TARGET if setup.setting is None else setup.setting, lead_s)
    return timed.Clairvoyant(table, setup.start_ms)


_MAKERS: Final[Mapping[str, Callable[[Setup], Policy]]] = {
    "static-peak": _static,
    "schedule": _schedule,
    "hpa-gpu": _hpa,
    "kpa": _kpa,
    "keda-llm-d": _llm_d,
    "aibrix-apa": _apa,
    "kthena": _kthena,
    "clairvoyant": _clairvoyant,
}
