"""Properties of the law over whole histories: bounds, ratio, monotony, rest, missing data, scaling, permutation, round trip."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heteroscale.contracts import codec
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision import controller
from heteroscale.decision.controller import ServiceState
from heteroscale.decision.law.ratio import derive
from support import lawbook
from support.lawbook import OFFLINE, Run, counts

QUICK = settings(max_examples=60)
GUARDS = [{"latency": "tbt", "quantile": "p95", "moderate": "60ms", "severe": "80ms"}]

loads = st.lists(st.one_of(st.none(), st.floats(0, 60, allow_nan=False)), min_size=3, max_size=40)
coverages = st.sampled_from([1.0, 1.0, 0.9, 0.5, None])
latencies = st.sampled_from([None, None, 55.0, 65.0, 90.0])
steps = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(0, 60, allow_nan=False)), coverages, latencies, st.integers(0, 3)),
    min_size=3,
    max_size=40,
)


@st.composite
def specs(draw: st.DrawFn) -> ServiceSpec:
    """Specs with every kind of limit drawn."""
    ratio = {"prefill": draw(st.integers(1, 3)), "decode": draw(st.integers(1, 4))}
    unit = max(ratio.values())
    roles = {name: {"min": draw(st.integers(0, 3)), "max": draw(st.integers(6 * unit, 60)), "gpus": 8} for name in ratio}
    inward = {
        "stabilization": draw(st.sampled_from(["15s", "60s", "300s"])),
        "cooldown": draw(st.sampled_from(["0s", "60s"])),
        "policies": [{"type": "percent", "value": draw(st.integers(5, 100)), "period": "60s"}],
        "soft": draw(st.sampled_from([None, {"observe": "30s"}])),
    }
    behavior = {"scale_out": {"cooldown": draw(st.sampled_from(["0s", "60s"]))}, "scale_in": inward}
    mode = draw(st.sampled_from(["active", "active", "active", "paused-in", "paused-out"]))
    return lawbook.spec(mode=mode, roles=roles, ratio=ratio, guards=draw(st.sampled_from([[], GUARDS])), behavior=behavior)


def seen(run: Run, serving: int, loading: int) -> dict[str, int]:
    """Instances of a window: `loading` of the decode ones do not serve yet, prefill is as the ratio wants it."""
    prefill = derive(serving, run.spec.ratio, "decode")["prefill"]
    return {"decode": max(0, serving - loading), "loading": min(serving, loading), "prefill": prefill}


def drive(run: Run, history: Sequence[tuple[Any, ...]]) -> list[Decision]:
    """A plant whose engines follow the commands a window later, with some loading and some silent."""
    made, serving = [], 6
    for load, coverage, p95, loading in history:
        tbt = None if p95 is None else lawbook.latency(p95)
        decision = run.window(**seen(run, serving, loading), load=load, coverage=coverage, tbt_ms=tbt)
        made.append(decision)
        serving = counts(decision)["decode"]
    return made


@QUICK
@given(specs(), steps)
def test_pair_bounds_and_ratio_hold_for_every_reachable_state(spec: ServiceSpec, history: list[Any]) -> None:
    """After the first move every count is derive(n) inside every role's bounds, and Command and Decision agree."""
    run = Run(spec)
    for decision in drive(run, history):
        n = counts(decision)["decode"]
        assert derive(n, spec.ratio, "decode") == counts(decision)
        if decision.action in {Action.SCALE_OUT, Action.SCALE_IN, Action.RESTORE}:
            for name, role in spec.roles.items():
                assert role.min <= counts(decision)[name] <= role.max
    for command in run.commands:
        made = {decision.id: decision for decision in run.decisions}[command.id]
        assert {name: role.replicas for name, role in command.roles.items()} == counts(made)


@QUICK
@given(st.integers(2, 40), st.floats(0, 60), st.floats(0, 30))
def test_monotone_more_demand_never_fewer_replicas(n: int, load: float, more: float) -> None:
    """All else equal, a larger demand in a window never yields a smaller count."""
    results = []
    for demand in (load, load + more):
        run = Run(lawbook.spec(behavior={"scale_in": {"stabilization": "15s"}}))
        run.window(decode=n, load=float(n))
        results.append(counts(run.window(decode=n, load=demand))["decode"])
    assert results[0] <= results[1]


@settings(max_examples=20)
@given(specs(), st.floats(0.5, 50))
def test_constant_load_settles_and_then_never_moves(spec: ServiceSpec, load: float) -> None:
    """Whatever the limits, a constant load comes to rest."""
    run = Run(spec)
    made = drive(run, [(load, 1.0, None, 0)] * 250)
    assert {Action.HOLD} == {decision.action for decision in made[-50:]}


@QUICK
@given(st.integers(4, 40), st.lists(st.floats(-0.149, 0.049), min_size=5, max_size=60))
def test_alternating_load_inside_tolerance_never_moves(n: int, noise: list[float]) -> None:
    """Loads inside n(1 - 15 %) .. n(1 + 5 %) rest."""
    run = Run(lawbook.spec())
    run.window(decode=n, load=float(n))
    for deviation in noise:
        assert Action.HOLD is run.window(decode=n, load=n * (1 + deviation)).action


@pytest.mark.parametrize("level", [8, 12, 20, 40])
def test_noise_changes_direction_at_most_once_in_half_an_hour(level: int) -> None:
    """Noise with a coefficient of variation of 0.1 in every hop, under the default behaviour; windows hold four hops."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        run = Run(lawbook.spec(behavior={"scale_out": {"cooldown": "60s"}, "scale_in": DEFAULT_IN}))
        run.window(decode=level, load=float(level))
        hops = np.maximum(0, random.normal(level, 0.1 * level, 123))
        serving = level
        signs: list[Action] = []
        for load in np.convolve(hops, np.ones(4) / 4, "valid"):
            decision = run.window(decode=serving, load=float(load))
            serving = counts(decision)["decode"]
            if decision.action in {Action.SCALE_OUT, Action.SCALE_IN}:
                signs.append(decision.action)
        assert sum(a != b for a, b in itertools.pairwise(signs)) <= 1, seed


DEFAULT_IN = {
    "stabilization": "300s",
    "cooldown": "600s",
    "policies": [{"type": "percent", "value": 20, "period": "300s"}],
    "soft": {"observe": "180s"},
}


@QUICK
@given(st.integers(2, 20), st.integers(1, 20), st.sampled_from([None, 0.0, 0.5]), loads)
def test_missing_is_not_zero(n: int, delay: int, coverage: float | None, history: list[float | None]) -> None:
    """Windows without a rate or without coverage never lower n, however long they last."""
    run = Run(lawbook.spec())
    run.window(decode=n, load=float(n))
    for load in history:
        before = run.n()
        unknown = coverage is None or delay % 2 == 0
        decision = run.window(decode=0, silent=n, load=None if unknown else load, coverage=coverage)
        assert counts(decision)["decode"] >= before


@QUICK
@given(st.integers(1, 12), st.floats(2, 30))
def test_a_step_of_load_x2_overshoots_at_most_one_unit(delay: int, load: float) -> None:
    """With a start-up delay of some windows, what is ordered never exceeds the demand by more than one instance."""
    start = math.ceil(load)
    run = Run(lawbook.spec(behavior={"scale_out": {"cooldown": "60s"}}))
    run.window(decode=start, load=load)
    births: list[tuple[int, int]] = []
    for at in range(delay + 20):
        serving = start + sum(count for born, count in births if at - born >= delay)
        before = run.n()
        run.window(decode=serving, loading=run.n() - serving, load=min(2 * load, serving * 1.3))
        if run.n() > before:
            births.append((at, run.n() - before))
    assert run.n() <= math.ceil(2 * load) + 1


@QUICK
@given(st.permutations(["a", "b", "c", "d"]), loads)
def test_order_of_services_changes_nothing(order: list[str], history: list[float | None]) -> None:
    """Services share nothing: any order of stepping them gives the same decisions."""

    def decide(services: Sequence[str]) -> dict[str, list[bytes]]:
        states = {name: ServiceState(name, lawbook.spec(service=name)) for name in services}
        made: dict[str, list[bytes]] = {name: [] for name in services}
        for at, load in enumerate(history):
            for index, name in enumerate(services):
                document = codec.to_document(lawbook.window(at, decode=4 + "abcd".index(name), load=load)) | {"service": name}
                window = codec.convert(SignalWindow, document)
                states[name], effects = controller.step(states[name], window, setting=OFFLINE)
                assert effects.decision is not None, index
                made[name].append(codec.encode(effects.decision))
        return made

    assert decide(sorted(order)) == dict(sorted(decide(order).items()))


@QUICK
@given(st.integers(2, 5), st.integers(2, 12), st.lists(st.floats(0.2, 30), min_size=3, max_size=20))
def test_scaling_all_counts_scales_the_answer(k: int, n: int, history: list[float]) -> None:
    """K times the instances under k times the load gives k times the answer, up to rounding."""

    def raw(times: int, load: float) -> int:
        run = Run(lawbook.spec(roles=WIDE))
        run.window(decode=n * times, load=float(n * times))
        return run.window(decode=n * times, load=load * times).stages[0].value["decode"]

    for load in history:
        small, large = raw(1, load), raw(k, load)
        assert k * (small - 1) <= large <= k * small


WIDE = {"prefill": {"min": 0, "max": 5_000, "gpus": 8}, "decode": {"min": 0, "max": 10_000, "gpus": 8}}


@QUICK
@given(specs(), steps, st.integers(0, 39))
def test_state_round_trips_at_any_step_with_the_same_continuation(spec: ServiceSpec, history: list[Any], cut: int) -> None:
    """A record read back goes on exactly as the state it was made from."""
    whole, parted = Run(spec), Run(spec)
    expected = [codec.encode(decision) for decision in drive(whole, history)]
    made, serving = [], 6
    for at, (load, coverage, p95, loading) in enumerate(history):
        if at == cut:
            record = codec.decode(DecisionState, codec.encode(parted.state.record()))
            assert parted.state == controller.from_record(record, spec)
            parted.state = controller.from_record(record, spec)
        tbt = None if p95 is None else lawbook.latency(p95)
        decision = parted.window(**seen(parted, serving, loading), load=load, coverage=coverage, tbt_ms=tbt)
        made.append(codec.encode(decision))
        serving = counts(decision)["decode"]
    assert expected == made


@QUICK
@given(specs(), steps)
def test_every_decision_is_whole(spec: ServiceSpec, history: list[Any]) -> None:
    """Ten stages in order, an action that fits the counts, and one decision a window."""
    run = Run(spec)
    for decision in drive(run, history):
        assert 10 == len(decision.stages)
        was, now = decision.before["decode"].replicas, counts(decision)["decode"]
        if decision.action is Action.RESTORE:
            assert now > was
        if decision.action is Action.HOLD:
            assert {name: role.replicas for name, role in decision.before.items()} == counts(decision)
        assert counts(decision) == decision.stages[-1].value
    assert len(history) == len({decision.id for decision in run.decisions})
