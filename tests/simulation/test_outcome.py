"""The outcome: timed policies, the choice of settings, intervals, the command, and the study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from heteroscale.cli.main import cli
from heteroscale.console import outcome as shown
from heteroscale.simulator import policies, traces
from heteroscale.simulator.baselines import timed
from heteroscale.simulator.outcome import cases, compare, study, trial
from heteroscale.simulator.outcome.compare import Interval, Plan
from heteroscale.simulator.outcome.trial import Order, Trial
from heteroscale.simulator.traffic import CACHED, PROMPT, REQUESTS


def quiet(_: str) -> None:
    """No reports."""


def a_trial(policy: str, setting: float, hours: float, attained: float) -> Trial:
    """A run with these figures."""
    return Trial(
        case="c", policy=policy, setting=setting, seed=1, startup_s=120.0, hours=1.0, gpu_hours=hours, gpu_hours_static=2.0 * hours,
        gpu_util=0.6, gpu_util_static=0.3, gpu_util_by_role={}, slo_attainment=attained, ttft_attainment=1.0, tbt_attainment=1.0,
        minutes_within=1.0, unserved=0, scale_actions=0, direction_changes=0, imbalance_minutes=0.0, unplaced_minutes=0.0,
        cross_s2_pairs=0, wall_s=0.0,
    )  # fmt: skip


def test_the_cheapest_that_attains_is_chosen() -> None:
    """Of settings that reach the target the cheapest; if none does, the one that attains most."""
    runs = [a_trial("p", 0.5, 30.0, 0.999), a_trial("p", 0.7, 20.0, 0.991), a_trial("p", 0.9, 10.0, 0.8)]
    assert 0.7 == compare.choose(runs, "c", "p").setting
    assert 0.9 == compare.choose([a_trial("p", 0.5, 30.0, 0.7), runs[2]], "c", "p").setting


def test_every_policy_has_the_same_budget() -> None:
    """Equal tuning: the same number of settings each, and every listed policy is compared."""
    assert {4} == {len(settings) for settings in compare.SETTINGS.values()}
    assert set(policies.ABOUT) == set(compare.SETTINGS)


def test_settings_are_never_chosen_on_the_trace_that_is_scored() -> None:
    """Each case names another one."""
    assert all(case.tuned_on != name and case.tuned_on in cases.CASES for name, case in cases.CASES.items())


def test_an_interval_is_students() -> None:
    """Three values 1, 2, 3: mean 2, half width 4.303 / sqrt(3); one value has none."""
    assert Interval(mean=2.0, half=round(4.303 / 3**0.5, 6)) == compare.interval([1.0, 2.0, 3.0])
    assert Interval(mean=2.0, half=None) == compare.interval([2.0])


@pytest.fixture(scope="module")
def stage() -> trial.Stage:
    """Two hours of Azure 2024 code."""
    return trial.staged(Order(case="azure-2024-code", policy="clairvoyant", hours=2.0))


def test_the_clairvoyant_is_cheaper_than_a_fixed_fleet_and_attains(stage: trial.Stage) -> None:
    """Without any lead its minutes reach the target by construction, with fewer GPU-minutes than the static peak's."""
    day = stage.day()
    table = timed.clairvoyant(day, 0.99, 0.0)
    fixed = policies.build("static-peak", policies.Setup(day.spec, day, cases.START_MS))
    assert isinstance(fixed, timed.Fixed)
    assert sum(int(counts.sum()) for counts in table.values()) < sum(fixed.counts.values()) * 120
    assert all(len(counts) == 120 for counts in table.values())
    led = timed.clairvoyant(day, 0.99, 300.0)
    assert all(bool(np.all(led[role] >= table[role])) for role in table)


def test_a_schedule_has_an_entry_for_each_hour(stage: trial.Stage) -> None:
    """Margins round up."""
    plain, padded = timed.hourly(stage.day(), 0.99, 0.0), timed.hourly(stage.day(), 0.99, 0.1)
    assert {2} == {len(counts) for counts in plain.values()}
    assert all(np.array_equal(padded[role], np.ceil(plain[role] * 1.1 - 1e-9)) for role in plain)


def test_the_lower_bound_is_below_every_policy_at_its_attainment() -> None:
    """Over an hour: clairvoyant < ours < HPA on GPU utilisation, all within SLO; ours holds the pair in every minute."""
    bound, ours, hpa = (
        trial.play(Order(case="azure-2024-conv", policy=name, setting=setting, hours=1.0))
        for name, setting in (("clairvoyant", 0.99), ("heteroscale", 0.7), ("hpa-gpu", 0.65))
    )
    assert min(bound.slo_attainment, ours.slo_attainment, hpa.slo_attainment) > 0.98
    assert bound.gpu_hours < ours.gpu_hours < hpa.gpu_hours
    assert 0 == ours.imbalance_minutes
    assert 0 == ours.unplaced_minutes == ours.cross_s2_pairs


def test_the_same_order_gives_the_same_trial() -> None:
    """Twice the same, but for the wall clock."""
    order = Order(case="azure-2023-conv", policy="heteroscale", setting=0.7, hours=0.3)
    one, other = (json.loads(json.dumps({**as_dict(trial.play(order)), "wall_s": 0})) for _ in range(2))
    assert one == other


def as_dict(one: Trial) -> dict[str, object]:
    """By field."""
    return {name: getattr(one, name) for name in one.__struct_fields__}


def test_the_command_prints_a_table_and_writes_a_page(tmp_path: Path) -> None:
    """A small plan: rows for both policies, plots, HTML; --json has frontier, defaults and rows."""
    asked = [
        "benchmark",
        "outcome",
        "--case",
        "azure-2023-conv",
        "--policy",
        "static-peak",
        "--policy",
        "schedule",
        "--hours",
        "0.1",
        "--seeds",
        "2",
    ]
    done = CliRunner().invoke(cli, [*asked, "--out", str(tmp_path), "--json"])
    assert 0 == done.exit_code, done.output
    document = json.loads(done.stdout)
    assert ["static-peak", "schedule"] == [row["policy"] for row in document["rows"]]
    assert 2 * 2 * 4 == len(document["frontier"])
    assert "data:image/png" in (tmp_path / "outcome.html").read_text()
    assert b"\x89PNG" == (tmp_path / "azure-2023-conv.png").read_bytes()[:4]
    assert "| static-peak |" in (tmp_path / "outcome.md").read_text()
    assert "±" in shown.spread(Interval(mean=1.0, half=0.5), "{:.1f}")


def test_the_study_has_all_eight_signals() -> None:
    """Throughput follows load; decode GPU utilisation does not follow it as well."""
    plan = Plan(cases=("azure-2024-code",), policies=(), hours=0.6)
    assert 8 == len(study.SUBJECTS)
    found = study.correlate(plan, "azure-2024-code")
    assert (found["prefill TPS, KV-missed"] or 0) > 0.99
    assert (found["prefill GPU utilisation"] or 0) > 0.9
    trace = cases.scaled(traces.load("azure-2024-code"))
    held = study.cached(trace)
    np.testing.assert_allclose(trace.totals[:, PROMPT], held.totals[:, PROMPT] - held.totals[:, CACHED])


@pytest.mark.parametrize("name", list(traces.TRACES))
def test_traces_have_load_throughout(name: str) -> None:
    """Every built-in trace: requests in each interval of ten minutes, and finite lengths."""
    trace = traces.load(name)
    assert np.isfinite(trace.totals).all()
    assert trace.duration_s > 3_400
    if trace.smooth:
        assert (trace.totals[:, REQUESTS] > 0).all()


def test_simulate_takes_a_trace_by_name() -> None:
    """An unknown one is refused with the names there are."""
    done = CliRunner().invoke(cli, ["simulate", "--spec", __file__, "--trace", "nowhere", "--fleet", __file__, "--json"])
    assert 2 == done.exit_code
    listed = CliRunner().invoke(cli, ["simulate", "--policy", "list"])
    assert all(policy in listed.stdout for policy in policies.ABOUT)
