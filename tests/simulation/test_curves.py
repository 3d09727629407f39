"""Calibration: what was measured comes out of the model, within the errors that docs/simulator.md states."""

from __future__ import annotations

import csv
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from heteroscale.cli.main import cli
from heteroscale.contracts.errors import Rejected
from heteroscale.simulator.model import engines, profiles
from heteroscale.simulator.outcome import calibration


def measured(path: str) -> list[dict[str, str]]:
    """Rows of a profile's CSV, read without the code under test."""
    return list(csv.DictReader(resources.files("heteroscale.simulator").joinpath(f"data/profiles/{path}").read_text("utf-8").splitlines()))


def test_h200_decode_curve_comes_out_of_the_model() -> None:
    """Below the plateau of its context, each measured point's latency within 6 %, at its measured throughput."""
    curve = profiles.load("h200_llama8b").decode["H200"]
    best: dict[float, float] = {}
    for row in measured("h200_llama8b/H200_TP1_decode.csv"):
        context, rate = float(row["context_length"]), float(row["thpt_tok_per_s_per_gpu"])
        if rate > best.get(context, 0.0):
            best[context] = rate
            load = rate / float(curve.peak_rate(context))
            assert float(row["itl_ms"]) / 1000 == pytest.approx(float(curve.latency_s(load, context)), rel=0.06)


def test_h200_decode_plateau_is_the_measured_one() -> None:
    """The most a context gives is the most that was measured there."""
    curve = profiles.load("h200_llama8b").decode["H200"]
    best: dict[float, float] = {}
    for row in measured("h200_llama8b/H200_TP1_decode.csv"):
        context = float(row["context_length"])
        best[context] = max(best.get(context, 0.0), float(row["thpt_tok_per_s_per_gpu"]))
    assert best == {context: float(curve.peak_rate(context)) for context in best}


def test_h200_prefill_time_is_the_measured_one() -> None:
    """An idle engine's time for a prompt is the measured TTFT within 1 %."""
    curve = profiles.load("h200_llama8b").prefill["H200"]
    for row in measured("h200_llama8b/H200_TP1_prefill.csv"):
        assert float(row["ttft_ms"]) / 1000 == pytest.approx(float(curve.seconds(float(row["isl"]))), rel=0.01)


def test_h20_tiers_hold() -> None:
    """The article's tiers: 714 tokens/s a GPU under 70 ms, 675 under 50 ms, for DeepSeek-R1 on H20."""
    curve = profiles.load("h20_deepseek_r1").decode["H20"]
    assert 714 * 8 == pytest.approx(curve.rate_within(4864, 0.070), rel=0.01)
    assert 675 * 8 == pytest.approx(curve.rate_within(4864, 0.050), rel=0.02)


def test_latency_never_falls_with_load() -> None:
    """Inter-token latency ascends with load at every context, so that a guard sees the cliff from below."""
    curve = profiles.load("h200_llama8b").decode["H200"]
    for context in (350.0, 1_700.0, 6_000.0, 20_000.0):
        assert bool(np.all(np.diff(curve.latency_s(profiles.GRID, context)) >= -1e-12))


def test_ttft_is_flat_then_falls_off_a_cliff() -> None:
    """Nearly all requests are in time at 60 % load, and clearly fewer at 97 %."""
    service = np.array([0.2])
    share = [float(engines.ttft_within(0.5, 0.0, engines.queueing(rho, 4.0, 0.2, 1.0), service)) for rho in (0.3, 0.6, 0.97)]
    assert share[0] > 0.99
    assert share[1] > 0.95
    assert share[2] < 0.7


def test_backlog_follows_the_recursion() -> None:
    """Backlog = max(0, backlog + offered - capacity), capped."""
    _, after = engines.backlog(np.array([5.0, 9.0, 1.0, 0.0]), 4.0, 5.5)
    assert [1.0, 5.5, 2.5, 0.0] == after.tolist()


def test_an_unknown_profile_names_the_known_ones() -> None:
    """The message lists what there is."""
    with pytest.raises(Rejected, match="h200_llama8b"):
        profiles.load("h9000")


def test_the_calibration_is_within_the_stated_errors() -> None:
    """What docs/simulator.md states: exact at prefill's points and at plateaus, 2.1 % for latency, 3.5 % of requests in time."""
    errors = {curve.name: curve.error_max for curve in calibration.curves()}
    assert errors["H200 prefill, idle TTFT"] < 0.001
    assert 0 == errors["H200 decode, plateau"]
    assert max(errors["H200 decode, inter-token latency"], errors["H20 decode, inter-token latency"]) < 0.021
    assert errors["prefill, requests within 1.5 s, 4 engines"] < 0.035
    assert errors["H200 prefill, throughput from its neighbours"] < 0.4


def test_a_curve_that_is_off_is_seen_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """With engines a tenth too fast, the calibration says so."""
    plain = profiles.load("h200_llama8b")
    fast = {"H200": replace(plain.prefill["H200"], tokens_per_s=plain.prefill["H200"].tokens_per_s * 1.1)}
    monkeypatch.setattr(profiles, "load", lambda _: replace(plain, prefill=fast))
    assert calibration.prefill_ttft().error_max == pytest.approx(1 - 1 / 1.1, rel=0.01)


def test_the_command_draws_and_prints_the_calibration(tmp_path: Path) -> None:
    """A line a curve; the picture is a PNG."""
    done = CliRunner().invoke(cli, ["benchmark", "calibration", "--plot", str(tmp_path / "c.png"), "--json"])
    assert 0 == done.exit_code, done.output
    assert len(calibration.curves()) == len(done.stdout.splitlines())
    assert b"\x89PNG" == (tmp_path / "c.png").read_bytes()[:4]
