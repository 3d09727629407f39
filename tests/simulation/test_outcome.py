"""The outcome: timed policies, the choice of settings, intervals, the command, and the study."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from heteroscale.cli.main import cli
from heteroscale.console import outcome as shown
from heteroscale.simulator import policies
from heteroscale.simulator.baselines import timed
from heteroscale.simulator.load import traces
from heteroscale.simulator.load.traffic import CACHED, PROMPT, REQUESTS
from heteroscale.simulator.model.static import Day
from heteroscale.simulator.outcome import bench as outcome_bench
from heteroscale.simulator.outcome import cases, compare, study, trial
from heteroscale.simulator.outcome.bench import Bench, Shelf
from heteroscale.simulator.outcome.compare import Basis, Interval, Plan
from heteroscale.simulator.outcome.trial import Order, Trial

SILENT = Bench(1, Shelf(), lambda _: None)


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


def test_a_case_knows_its_length() -> None:
    """A cut beyond its end is none, so that runs of a cut and of the whole are the same run."""
    for case in cases.CASES.values():
        assert case.hours == pytest.approx(case.traffic().duration_s / 3600, rel=0.03)
    assert cases.CASES["azure-2024-code"].cut(24.0) is None
    assert 72.0 == cases.CASES["servegen-week-1"].cut(72.0)


def test_an_interval_is_students() -> None:
    """Three values 1, 2, 3: mean 2, half width 4.303 / sqrt(3); one value has none."""
    assert Interval(mean=2.0, half=round(4.303 / 3**0.5, 6)) == compare.interval([1.0, 2.0, 3.0])
    assert Interval(mean=2.0, half=None) == compare.interval([2.0])


@pytest.fixture(scope="module")
def day() -> Day:
    """Two hours of Azure 2024 code."""
    return trial.ground("azure-2024-code", 1, 120.0, 2.0).day


def test_the_clairvoyant_is_cheaper_than_a_fixed_fleet_and_attains(day: Day) -> None:
    """Without any lead its minutes reach the target by construction, with fewer GPU-minutes than the static peak's."""
    table = timed.clairvoyant(day, 0.99, 0.0)
    fixed = policies.build("static-peak", policies.Setup(day.spec, day, cases.START_MS))
    assert isinstance(fixed, timed.Fixed)
    assert sum(int(counts.sum()) for counts in table.values()) < sum(fixed.counts.values()) * 120
    assert all(len(counts) == 120 for counts in table.values())
    led = timed.clairvoyant(day, 0.99, 300.0)
    assert all(bool(np.all(led[role] >= table[role])) for role in table)


def test_what_is_remembered_of_a_day_is_its_own(day: Day) -> None:
    """The same fleet again is looked up; another load is worked out anew."""
    assert day.attainment(9, 3) == day.attainment(9, 3) == replace(day).attainment(9, 3)
    assert day.attainment(9, 3) > replace(day, load=day.load * 3).attainment(9, 3)


def test_a_schedule_has_an_entry_for_each_hour(day: Day) -> None:
    """Margins round up; eight days that were seen make a week of entries, the larger where an hour was seen twice."""
    plain, padded = timed.hourly(day, 0.99, 0.0), timed.hourly(day, 0.99, 0.1)
    week = timed.hourly(replace(day, load=np.tile(day.load, (96, 1))), 0.99, 0.0)
    assert {168} == {len(counts) for counts in week.values()}
    assert all(np.array_equal(np.tile(plain[role], 84), week[role]) for role in plain)
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


def orders(*settings: float) -> list[Order]:
    """Six minutes of an hour under static peak."""
    return [Order(case="azure-2023-conv", policy="static-peak", setting=setting, hours=0.1) for setting in settings]


class Interrupted:
    """Plays so many orders and is interrupted then."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.played: list[Order] = []

    def __call__(self, order: Order) -> Trial:
        """See Play."""
        if len(self.played) == self.left:
            raise KeyboardInterrupt
        self.played.append(order)
        return trial.play(order)


def test_an_interrupted_run_goes_on_with_what_is_there(tmp_path: Path) -> None:
    """Finished runs are not played again, one that cannot be read is, and the result is that of a run without interruption."""
    said: list[str] = []
    wanted = orders(0.98, 0.99, 0.999)
    bench = Bench(1, Shelf(tmp_path), said.append)
    with pytest.raises(KeyboardInterrupt):
        bench.run(wanted, Interrupted(2), "runs")
    kept = sorted(tmp_path.rglob("*.json"))
    assert 2 == len(kept)
    kept[0].write_text("{")
    again = Interrupted(9)
    found = bench.run(wanted, again, "runs")
    assert [wanted[0], wanted[2]] == again.played
    assert "runs: 1 of 3 runs are there already" in said
    assert [timeless(one) for one in SILENT.run(wanted, trial.play, "runs")] == [timeless(one) for one in found]


def test_several_jobs_give_what_one_gives() -> None:
    """In the order asked for, each order once however often it stands there."""
    wanted = orders(0.999, 0.98, 0.999)
    several = Bench(2, Shelf(), lambda _: None).run(wanted, trial.play, "runs")
    assert [timeless(one) for one in SILENT.run(wanted, trial.play, "runs")] == [timeless(one) for one in several]
    assert [0.999, 0.98, 0.999] == [one.setting for one in several]


def timeless(one: Trial) -> Trial:
    """Without the time it took."""
    return msgspec.structs.replace(one, wall_s=0.0)


def test_a_law_of_another_version_is_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours depends on the law; a baseline does not, and both on the model."""
    shelf = Shelf(tmp_path)
    ours, other = (Order(case="c", policy=name, setting=0.5) for name in ("heteroscale", "static-peak"))
    for order in (ours, other):
        shelf.keep(order, a_trial(order.policy, 0.5, 1.0, 1.0))
    monkeypatch.setattr(outcome_bench, "POLICY_VERSION", -1)
    assert shelf.find(ours) is None
    assert shelf.find(other) == a_trial("static-peak", 0.5, 1.0, 1.0)
    monkeypatch.setattr(outcome_bench, "MODEL_VERSION", -1)
    assert shelf.find(other) is None


def test_settings_are_tried_with_the_main_start_up_time_alone() -> None:
    """Both cases, each once though each chooses for the other; no run stands twice."""
    wanted = compare.frontiers(Plan(cases=("azure-2024-code", "azure-2024-conv"), policies=("kpa",)))
    assert len(wanted) == len(set(wanted)) == 2 * 4
    assert {120.0} == {order.startup_s for order in wanted}


def test_a_policy_is_scored_as_elsewhere_here_and_the_documentation_choose() -> None:
    """The other trace's setting is that of its own runs; another start-up time comes last, with the setting of the main one."""
    plan = Plan(cases=("azure-2023-conv",), policies=("schedule", "clairvoyant"), seeds=2, startups_s=(60.0, 30.0), hours=0.1)
    found = compare.compare(plan, SILENT)
    main = [("schedule", basis, 60.0) for basis in Basis] + [("clairvoyant", basis, 60.0) for basis in (Basis.ITSELF, Basis.DEFAULT)]
    other = [("schedule", Basis.ELSEWHERE, 30.0), ("clairvoyant", Basis.ITSELF, 30.0)]
    assert main + other == [(row.policy, row.basis, row.startup_s) for row in found.rows]
    assert found.rows[0].setting == found.rows[-2].setting
    elsewhere = next(row for row in found.rows if row.basis is Basis.ELSEWHERE)
    assert compare.choose(found.frontier, "azure-2024-conv", "schedule").setting == elsewhere.setting
    assert all(row.over_clairvoyant is not None for row in found.rows)
    assert [row.basis is Basis.DEFAULT for row in found.rows] == [row.gpu_hours.half is None for row in found.rows]
    assert 1.0 == next(row for row in found.rows if row.policy == "clairvoyant").over_clairvoyant.mean  # type: ignore[union-attr]  # as asserted


def test_the_command_prints_a_table_and_writes_a_page(tmp_path: Path) -> None:
    """A small plan: rows for both policies, plots, HTML; --json is one document with frontier and rows; --markdown is what is written."""
    asked = ["benchmark", "outcome", "--case", "azure-2023-conv", "--policy", "static-peak", "--policy", "schedule"]
    asked += ["--hours", "0.1", "--seeds", "2", "--startup", "120"]
    done = CliRunner().invoke(cli, [*asked, "--out", str(tmp_path), "--json"])
    assert 0 == done.exit_code, done.output
    document = json.loads(done.stdout)["outcome"]
    assert {"static-peak", "schedule"} == {row["policy"] for row in document["rows"]}
    assert 2 * 2 * 4 == len(document["frontier"])
    assert "data:image/png" in (tmp_path / "outcome.html").read_text()
    assert b"\x89PNG" == (tmp_path / "azure-2023-conv.png").read_bytes()[:4]
    again = CliRunner().invoke(cli, [*asked, "--out", str(tmp_path), "--markdown"])
    assert (tmp_path / "outcome.md").read_text() == again.stdout.rstrip("\n") + "\n"
    assert "| static-peak | 0.99 |" in again.stdout


def test_what_is_not_comparable_shows_no_gain() -> None:
    """A spread that rounds to nothing is left out, and a policy that serves nobody has no fleet to be compared with."""
    assert "1.0 ± 0.5" == shown.spread(Interval(mean=1.0, half=0.5), "{:.1f}")
    assert "1" == shown.spread(Interval(mean=1.0, half=0.2), "{:.0f}")
    choice = compare.Choice(case="c", policy="p", startup_s=1.0, basis=Basis.DEFAULT, setting=None, chosen_on="documentation")
    assert "-" == shown.gain(compare.row_of(choice, [a_trial("p", 0.5, 1.0, 0.4)], None))
    assert "+30.0" == shown.gain(compare.row_of(choice, [a_trial("p", 0.5, 1.0, 0.95)], None))


def test_the_study_has_all_eight_signals() -> None:
    """Throughput follows load; decode GPU utilisation does not follow it as well."""
    assert 8 == len(study.SUBJECTS)
    found = study.correlate(Order(case="azure-2024-code", policy="static-peak", hours=0.6))
    assert (found["prefill TPS, KV-missed"] or 0) > 0.99
    assert (found["prefill GPU utilisation"] or 0) > 0.9
    assert abs(found["decode GPU utilisation"] or 0) < 0.9
    trace = cases.scaled(traces.load("azure-2024-code"))
    held = cases.cached(trace)
    np.testing.assert_allclose(trace.totals[:, PROMPT], held.totals[:, PROMPT] - held.totals[:, CACHED])


def test_the_study_prints_a_line_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two targets each, the best of them over two seeds."""
    monkeypatch.setitem(compare.SETTINGS, "heteroscale", (0.6, 0.7))
    monkeypatch.setattr(study, "SUBJECTS", study.SUBJECTS[:2])
    done = CliRunner().invoke(
        cli, ["benchmark", "outcome", "--part", "signals", "--case", "azure-2023-conv", "--hours", "0.1", "--seeds", "2", "--json"]
    )
    assert 0 == done.exit_code, done.output
    rows = json.loads(done.stdout)["study"]["rows"]
    assert ["decode TPS", "prefill TPS, KV-missed"] == [row["signal"] for row in rows]
    assert all(row["gpu_hours"]["half"] is not None for row in rows)


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
