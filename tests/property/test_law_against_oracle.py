"""The law against a second, plain writing of its arithmetic stages, over whole histories."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from heteroscale.contracts.spec import ServiceSpec
from support import lawbook
from support.law_oracle import Oracle
from support.lawbook import HOP_MS, START_MS, Run, counts

spans = st.sampled_from(["0s", "15s", "30s", "60s", "120s"])
policies = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["percent", "pods"]), "value": st.integers(1, 100), "period": st.sampled_from(["15s", "60s", "90s"])}
    ),
    min_size=1,
    max_size=2,
)
# demands on the edges of tolerances and of whole counts as well as anywhere
demands = st.one_of(
    st.floats(0, 60, allow_nan=False), st.integers(0, 60).map(float), st.integers(0, 1_200).map(lambda twentieth: twentieth / 20)
)


@st.composite
def specs(draw: st.DrawFn) -> ServiceSpec:
    """Everything that the oracle knows, drawn."""
    ratio = {"prefill": draw(st.integers(1, 3)), "decode": draw(st.integers(1, 4))}
    roles = {name: {"min": draw(st.integers(0, 3)), "max": draw(st.integers(20, 60)), "gpus": 8} for name in ratio}
    behavior = {
        "scale_out": {"stabilization": draw(spans), "cooldown": draw(spans), "policies": draw(policies)},
        "scale_in": {
            "stabilization": draw(spans.filter(lambda span: span != "0s")),
            "cooldown": draw(spans),
            "policies": draw(policies),
            "soft": None,
        },
    }
    return lawbook.spec(roles=roles, ratio=ratio, behavior=behavior)


@settings(max_examples=150)
@given(specs(), st.integers(0, 70), st.lists(demands, min_size=1, max_size=40))
def test_law_and_oracle_agree(spec: ServiceSpec, start: int, history: list[float]) -> None:
    """The same counts in every window: tolerance, ceil, bounds of all roles, rate, stabilisation and both cooldowns."""
    run, oracle = Run(spec), Oracle(spec, start, START_MS + HOP_MS)
    for at, d in enumerate(history, start=1):
        n = oracle.n
        decision = run.window(decode=n, prefill=oracle.derived("prefill", n), load=d, coverage=1.0)
        expected = oracle.decide(START_MS + at * HOP_MS, d)
        assert {"decode": expected, "prefill": oracle.derived("prefill", expected)} == counts(decision), decision.stages
