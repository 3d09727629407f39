"""Traces: what a file says is what is offered, whatever the seed, the step and the format."""

from __future__ import annotations

import numpy as np
import pytest

from heteroscale.contracts.errors import Rejected
from heteroscale.simulator.load import traffic
from heteroscale.simulator.load.traffic import OUTPUT, REQUESTS

INTERVALS = "at_s,requests,prompt_tokens,output_tokens\n0,100,1000,500\n60,0,0,0\n120,50,700,90\n"
REQUESTS_CSV = "at_s,prompt_tokens,output_tokens,cached_prompt_tokens\n0.5,100,10,20\n3,200,30,0\n7.25,50,5,50\n"


@pytest.mark.parametrize("step_s", [5.0, 7.0, 60.0, 600.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_token_of_a_trace_is_offered(step_s: float, seed: int) -> None:
    """Totals over all steps equal the trace's, for every column."""
    trace = traffic.parse(INTERVALS, "t.csv")
    np.testing.assert_allclose(trace.totals.sum(axis=0), trace.steps(step_s, seed).sum(axis=0))


def test_each_interval_keeps_its_total() -> None:
    """Noise moves arrivals inside an interval, never across its edge."""
    trace = traffic.parse(INTERVALS, "t.csv")
    steps = trace.steps(5.0, 3)
    np.testing.assert_allclose([100.0, 0.0, 50.0], steps[:, REQUESTS].reshape(3, 12).sum(axis=1))


def test_the_seed_decides_the_arrivals() -> None:
    """Same seed, same steps; another seed, others."""
    trace = traffic.parse(INTERVALS, "t.csv")
    assert trace.steps(5.0, 1).tobytes() == trace.steps(5.0, 1).tobytes()
    assert trace.steps(5.0, 1).tobytes() != trace.steps(5.0, 2).tobytes()


def test_a_request_trace_is_taken_as_it_is() -> None:
    """Requests fall into the step they arrive in, from the first one on."""
    steps = traffic.parse(REQUESTS_CSV, "r.csv").steps(5.0, 1)
    assert [[2.0, 300.0, 40.0, 20.0], [1.0, 50.0, 5.0, 50.0]] == steps.tolist()


def test_scale_multiplies_and_until_cuts() -> None:
    """Twice the load is twice every total; a cut interval keeps its share."""
    trace = traffic.parse(INTERVALS, "t.csv")
    assert 300.0 == trace.scaled(2.0).totals[:, REQUESTS].sum()
    assert 545.0 == trace.until(150.0).totals[:, OUTPUT].sum()


def test_the_azure_weekday_holds_each_minute_for_five() -> None:
    """288 rows of 300 s; the first code row is 1,057 requests a minute."""
    day = traffic.azure_weekday("code")
    assert 86_400.0 == day.duration_s
    assert 5 * 1_057.0 == day.totals[0, REQUESTS]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("at_s,prompt_tokens\n0,1\n", "t.csv:1"),
        ("at_s,prompt_tokens,output_tokens\n0,1,x\n", "t.csv:2"),
        ("at_s,prompt_tokens,output_tokens\n0,1,-3\n", "t.csv:2"),
        ("at_s,requests,prompt_tokens,output_tokens\n60,1,1,1\n0,1,1,1\n", "t.csv"),
        ("at_s,prompt_tokens,output_tokens\n", "t.csv"),
    ],
)
def test_a_bad_trace_is_refused_with_its_place(text: str, place: str) -> None:
    """The message names the file and the line."""
    with pytest.raises(Rejected) as refused:
        traffic.parse(text, "t.csv")
    assert place == refused.value.place
