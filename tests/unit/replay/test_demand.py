"""Recorded rates as a trace: what was served, what had to wait, and engines that can give what was given."""

from __future__ import annotations

import numpy as np
import pytest

from heteroscale.contracts import codec
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.replay import demand
from heteroscale.replay.demand import Offered, Row, Startups
from heteroscale.simulator.load.traffic import CACHED, OUTPUT, PROMPT, REQUESTS
from heteroscale.simulator.model import curves

SPEC = codec.convert(
    ServiceSpec,
    {
        "service": "chat",
        "roles": {
            "prefill": {"min": 1, "max": 8, "gpus": 8, "gpu_types": [{"type": "H20"}]},
            "decode": {"min": 1, "max": 8, "gpus": 8, "gpu_types": [{"type": "H20"}]},
        },
        "ratio": {"prefill": 1, "decode": 1},
        "signals": [{"metric": "decode_tps", "role": "decode", "target": 1000}],
    },
)


def window(
    prefill_tps: float | None, *, missed: float | None = None, decode_tps: float | None = 100.0, waiting: float = 0.0
) -> SignalWindow:
    """One minute of one prefill and one decode."""

    def role(**figures: object) -> dict[str, object]:
        counts = {"loading": 0, "serving": 1, "draining": 0, "silent": 0}
        names = ("coverage", "decode_tps", "prefill_tps", "prefill_missed_tps", "gpu_util", "sm_active", "kv_usage", "running", "waiting")
        empty = dict.fromkeys((*names, "ttft_ms", "tbt_ms"))
        return {"instances": counts, **empty, "by_gpu_type": {"H20": {"serving": 1, "decode_tps": None, "prefill_tps": None}}, **figures}

    latency = {"p50": 1.0, "p90": 1.0, "p95": 1.0, "p99": 1.0, "count": 120}
    roles = {
        "prefill": role(prefill_tps=prefill_tps, prefill_missed_tps=missed, waiting=waiting, ttft_ms=latency),
        "decode": role(decode_tps=decode_tps),
    }
    return codec.convert(SignalWindow, {"service": "chat", "start_ms": 0, "end_ms": 60_000, "roles": roles})


def test_rates_of_a_window_become_requests_and_tokens() -> None:
    """Requests are counted by TTFT; cached tokens are those that prefill did not miss; a silent window says nothing."""
    assert Offered(2.0, 600.0, 100.0, 200.0, (7.0, 0.0)) == demand.offered(SPEC, window(600.0, missed=400.0, waiting=7.0))
    assert demand.offered(SPEC, window(None, decode_tps=None)) is None


def test_what_began_to_wait_had_arrived() -> None:
    """A queue that grows adds to what was served, one that shrinks is taken off, and over both nothing is lost or made up."""
    rows = [
        Row(60_000, Offered(10.0, 1_000.0, 500.0, 0.0)),
        Row(120_000, Offered(10.0, 1_000.0, 500.0, 0.0, (300.0, 0.0))),
        Row(180_000, Offered(10.0, 1_000.0, 500.0, 0.0)),
    ]
    trace = demand.traffic("chat", rows, 0)
    assert [600.0, 900.0, 300.0] == trace.totals[:, REQUESTS].tolist()
    assert pytest.approx(180_000.0) == float(trace.totals[:, PROMPT].sum())
    assert pytest.approx(90_000.0) == float(trace.totals[:, OUTPUT].sum())
    assert [0.0, 60.0, 120.0, 180.0] == trace.edges_s.tolist()
    assert 0.0 == float(trace.totals[:, CACHED].sum())


def test_engines_give_at_least_what_they_gave() -> None:
    """A rate beyond the curve makes the role's engines faster by just that; rates within it leave the curve as measured."""
    chosen = curves.choose(SPEC, None)
    slow = window(600.0, missed=600.0)
    assert {} == demand.fast_enough(SPEC, chosen, [slow])[1]
    prompt = 300.0
    can = float(chosen.prefill.rate(prompt)) * 8 / chosen.prefill.engine_gpus
    fast = window(3 * can, missed=3 * can)
    fitted, faster = demand.fast_enough(SPEC, chosen, [slow, fast])
    assert {"prefill"} == set(faster)
    assert fitted.factor("prefill", "H20") > 1.0 == fitted.factor("decode", "H20")
    again = demand.fast_enough(SPEC, fitted, [slow, fast])[1]
    assert {} == again or np.isclose(again["prefill"], 1.0)


def test_start_up_times_are_those_from_reserved_to_ready() -> None:
    """One an instance; what was never ready counts for nothing."""
    times = Startups()
    for at_ms, changes in (
        (1_000, [("i-1", None, "reserved"), ("i-2", None, "reserved")]),
        (61_000, [("i-1", "reserved", "starting")]),
        (181_000, [("i-1", "starting", "ready")]),
    ):
        told = [{"instance": name, "from": before, "to": after, "reason": "placed"} for name, before, after in changes]
        document = {"service": "chat", "fleet": "default", "revision": 1, "command_id": "c", "seq": 1, "gen": 1, "at_ms": at_ms}
        times.see(codec.convert(Placement, {**document, "status": "progressing", "changes": told}))
    assert {"i-1": 180_000} == times.took
