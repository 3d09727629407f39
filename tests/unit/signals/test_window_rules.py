"""Every rule of the window, one test each, with figures small enough to check by hand."""

from __future__ import annotations

import json

import pytest

from heteroscale.contracts.signals import InstanceCounts
from heteroscale.signals.table import SAMPLES_PER_INSTANCE_MAX
from support.telemetry_lines import ORIGIN_S, Run, in_time_order, ms, record, sample, spec, steady, tick, ticks


def test_rate_is_the_counters_increase_over_the_window() -> None:
    """100 tokens/s for a minute are 100 tokens/s, fully covered."""
    run = Run().feed(*in_time_order(steady("i", 0, 80, 100), ticks(0, 80)))
    assert 100.0 == run.role(60).decode_tps
    assert 1.0 == run.role(60).coverage


def test_first_window_starts_at_or_after_the_first_sample() -> None:
    """A first sample at 2 s: [0, 60) is not whole, [15, 75) is."""
    run = Run().feed(*in_time_order(steady("i", 2, 102, 10), ticks(0, 102)))
    assert [75.0, 90.0] == run.ends_s()


def test_window_closes_at_the_first_tick_of_end_plus_lateness_plus_interval() -> None:
    """End 60, lateness 5, interval 5: the tick at 69 does not close it, the one at 70 does, and is recorded as last offset."""
    run = Run().feed(*steady("i", 0, 65, 10), tick(69))
    assert [] == run.windows
    run.feed(tick(70))
    inputs = run.window(60).inputs
    assert inputs is not None
    assert (0, run.offset - 1) == (inputs.first_offset, inputs.last_offset)


def test_increase_between_neighbours_is_spread_evenly_over_edges() -> None:
    """600 tokens between 50 and 80 s: a third of them, 200, lies before the end at 60 (20 s away from it: not its right neighbour).

    So the window to 60 sees none of them; the window [15, 75) sees 25/30 of 600 = 500 tokens, once the sample at 80 (5 s after) is there.
    """
    first, second = sample("i", 50, generation_tokens=0), sample("i", 80, generation_tokens=600)
    run = Run().feed(record(sample("i", -10, generation_tokens=0)), record(first), tick(60), record(second), tick(85))
    assert 0.0 == run.role(60).decode_tps
    assert round(500 / 60, 6) == run.role(75).decode_tps


def test_right_neighbour_counts_within_one_interval() -> None:
    """600 tokens from 55 to 65 s: half of them belong to the window that ends at 60."""
    run = Run().feed(record(sample("i", 0, generation_tokens=0)), record(sample("i", 55, generation_tokens=0)))
    run.feed(record(sample("i", 65, generation_tokens=600)), tick(70))
    assert 5.0 == run.role(60).decode_tps


def test_first_sample_gives_no_rate_and_lowers_coverage() -> None:
    """One of two instances has a single sample: coverage one half, its tokens nowhere."""
    lone = [record(sample("new", 58, generation_tokens=10**6))]
    run = Run().feed(*in_time_order(steady("i", 0, 80, 100), lone, ticks(0, 70)))
    assert (100.0, 0.5) == (run.role(60).decode_tps, run.role(60).coverage)
    assert InstanceCounts(serving=2) == run.role(60).instances


def test_counter_drop_counts_from_zero_spread_from_the_sample_before() -> None:
    """1000 at 25 s, then 300 at 30 s: 300 tokens were generated, not -700."""
    samples = [sample("i", 0, generation_tokens=1_000), sample("i", 25, generation_tokens=1_000), sample("i", 30, generation_tokens=300)]
    run = Run().feed(*map(record, samples), record(sample("i", 60, generation_tokens=300)), tick(70))
    assert 5.0 == run.role(60).decode_tps


def test_changed_start_restarts_all_counters_even_those_that_did_not_drop() -> None:
    """A new process that already overtook the old counter: all of its 1200 tokens count."""
    run = Run().feed(
        record(sample("i", 0, generation_tokens=1_000, started_at_ms=ms(-100))),
        record(sample("i", 30, generation_tokens=1_200, started_at_ms=ms(1))),
        record(sample("i", 60, generation_tokens=1_200, started_at_ms=ms(1))),
        tick(70),
    )
    assert 20.0 == run.role(60).decode_tps


def test_gap_longer_than_forget_gives_no_difference() -> None:
    """With forget 30 s, the step over 40 s of silence is nobody's tokens; with exactly 30 s it counts."""
    rules = spec(size="60s", hop="15s", silence="15s", forget="30s")
    for gap, expected in ((40, 0.0), (30, 10.0)):
        run = Run(rules).feed(tick(0), *[record(sample("i", at, generation_tokens=0)) for at in (0, 5)])
        run.feed(record(sample("i", 5 + gap, generation_tokens=600)), record(sample("i", 50, generation_tokens=600)), tick(70))
        assert expected == run.role(60).decode_tps


def test_silent_instances_lower_coverage_until_forgotten() -> None:
    """Silence 15 s, forget 600 s: serving, then silent, then gone; a loading or draining one simply leaves, a stopping one at once."""
    states = [record(sample(state, at, state=state)) for state in ("loading", "draining", "stopping", "serving") for at in (0, 50)]
    run = Run(spec()).feed(tick(0), *in_time_order(states, ticks(1, 80)))
    assert InstanceCounts(loading=1, serving=1, draining=1) == run.role(60).instances
    run.feed(*ticks(81, 700))
    assert InstanceCounts(silent=1) == run.role(75).instances
    assert InstanceCounts(silent=1) == run.role(645).instances
    assert InstanceCounts() == run.role(660).instances
    assert 0.0 == run.role(75).coverage
    assert run.role(660).coverage is None


def test_usable_is_judged_from_the_start_of_the_process() -> None:
    """Started at 40 s, first sample at 42 s: 18 of 20 s are covered, so it is usable; without its start 18 of 60 s, so it is not."""
    for started, coverage in ((ms(40), 1.0), (None, 0.0)):
        young = [record(sample("i", at, generation_tokens=at, started_at_ms=started)) for at in (42, 47, 52, 57, 62)]
        run = Run(spec()).feed(*in_time_order(young, ticks(0, 70)))
        assert coverage == run.role(60).coverage


def test_missed_prefill_is_prompt_less_cached_and_unknown_while_an_active_instance_does_not_count_it() -> None:
    """60 prompt tokens/s of which 45 cached: 15 missed; a second serving instance without the counter makes it null."""

    def series(name: str, **fields: float) -> list[dict[str, object]]:
        return [
            record(sample(name, at, role="prefill", prompt_tokens=60 * at, **{k: v * at for k, v in fields.items()}))
            for at in range(0, 81, 5)
        ]

    both = Run().feed(*in_time_order(series("a", cached_prompt_tokens=45), ticks(0, 70)))
    assert (60.0, 15.0) == (both.role(60, "prefill").prefill_tps, both.role(60, "prefill").prefill_missed_tps)
    mixed = Run().feed(*in_time_order(series("a", cached_prompt_tokens=45), series("b"), ticks(0, 70)))
    assert (120.0, None) == (mixed.role(60, "prefill").prefill_tps, mixed.role(60, "prefill").prefill_missed_tps)


def test_by_gpu_type_splits_rates_and_serving() -> None:
    """An H20 at 100/s and an L20 at 30/s."""
    streams = steady("a", 0, 80, 100, gpu_type="H20"), steady("b", 0, 80, 30, gpu_type="L20"), ticks(0, 70)
    found = Run().feed(*in_time_order(*streams)).role(60).by_gpu_type
    assert ["H20", "L20"] == list(found)
    assert [(1, 100.0, None), (1, 30.0, None)] == [(each.serving, each.decode_tps, each.prefill_tps) for each in found.values()]


def test_utilisation_is_a_mean_of_means_weighted_by_gpus_and_kv_usage_unweighted() -> None:
    """0.9 on 8 GPUs and 0.3 on 4: (7.2 + 1.2) / 12 = 0.7; KV usage is plainly averaged; running and waiting are sums of last values."""
    a = steady("a", 0, 80, 1, gpu_util=0.9, sm_active=0.9, kv_usage=0.9, gpus=8, running=3, waiting=1)
    b = steady("b", 0, 80, 1, gpu_util=0.3, sm_active=0.3, kv_usage=0.3, gpus=4, running=4, waiting=0)
    role = Run().feed(*in_time_order(a, b, ticks(0, 70))).role(60)
    assert (0.7, 0.7, 0.6, 7.0, 1.0) == (role.gpu_util, role.sm_active, role.kv_usage, role.running, role.waiting)


def _with_ttft(name: str, layout: str, counts: list[int]) -> list[dict[str, object]]:
    """Two samples, at 0 and 60 s, whose TTFT counts rise from zero to `counts`."""
    layouts = {"a": [0.1, 0.2, 0.4], "b": [0.2, 0.8]}
    rows = (0, [0] * len(counts)), (60, counts)
    return [record(sample(name, at, ttft={"layout": layout, "counts": row, "sum_s": None}), layouts=layouts) for at, row in rows]


def test_quantiles_are_linear_inside_a_bucket() -> None:
    """100 observations in (0.1, 0.2]: p50 is 150 ms, p99 199 ms."""
    found = Run().feed(*in_time_order(_with_ttft("i", "a", [0, 100, 0, 0]), ticks(1, 70))).role(60).ttft_ms
    assert found is not None
    assert (150.0, 190.0, 195.0, 199.0, 100, False, False) == (
        found.p50, found.p90, found.p95, found.p99, found.count, found.saturated, found.approximate,
    )  # fmt: skip


def test_quantile_beyond_the_last_edge_is_that_edge_and_saturated() -> None:
    """A tenth of 100 observations lies beyond 0.4 s: p95 and p99 report 400 ms, saturated."""
    found = Run().feed(*in_time_order(_with_ttft("i", "a", [90, 0, 0, 10]), ticks(1, 70))).role(60).ttft_ms
    assert found is not None
    assert (400.0, True) == (found.p95, found.saturated)


def test_layouts_that_differ_merge_on_the_union_of_edges_and_say_so() -> None:
    """50 in (0.1, 0.2] of layout a, 50 in (0, 0.2] of layout b, half of which falls to (0, 0.1]: p50 is at rank 50, 1/3 into (0.1, 0.2]."""
    streams = _with_ttft("i", "a", [0, 50, 0, 0]), _with_ttft("j", "b", [50, 0, 0]), ticks(1, 70)
    found = Run().feed(*in_time_order(*streams)).role(60).ttft_ms
    assert found is not None
    assert (133.333333, 100, True) == (found.p50, found.count, found.approximate)


def test_late_sample_is_counted_once_and_takes_part_in_open_windows() -> None:
    """At tick 30 the watermark is 25: a sample of 20 s is late, but the window to 60 uses it."""
    run = Run().feed(record(sample("i", 0, generation_tokens=0)), tick(30), record(sample("i", 20, generation_tokens=600)))
    run.feed(record(sample("i", 60, generation_tokens=600)), tick(70), tick(85))
    assert (1, 0) == (run.window(60).late_samples, run.window(75).late_samples)
    assert 10.0 == run.role(60).decode_tps
    assert 0.0 == run.role(75).decode_tps or run.role(75).decode_tps == round(150 / 60, 6)


def test_duplicates_and_reordering_inside_the_lateness_change_nothing() -> None:
    """Every record twice, and neighbours swapped: the same bytes but for offsets."""
    straight = steady("i", 0, 80, 100)
    shuffled = [document for pair in zip(straight[1::2], straight[0::2], strict=False) for document in pair * 2] + straight
    plain, disturbed = Run().feed(*straight, tick(70)), Run().feed(*shuffled, tick(70))
    assert plain.role(60) == disturbed.role(60)
    assert 0 == disturbed.window(60).late_samples


def test_an_older_tick_changes_nothing_and_a_jump_needs_a_second_tick() -> None:
    """A clock an hour ahead closes nothing on its own; confirmed by the next tick it does."""
    run = Run(spec()).feed(tick(0), tick(3_600), tick(1), tick(60))
    assert [] == run.windows
    run.feed(tick(3_600), tick(3_601))
    assert 60.0 == run.ends_s()[0]
    count = len(run.windows)
    run.feed(tick(10), tick(3_602))
    assert count == len(run.windows)


def test_service_with_a_spec_has_windows_without_samples() -> None:
    """From the first tick at or after applied_at: the spec's roles, empty, coverage null."""
    run = Run(spec(applied_s=20)).feed(*ticks(0, 120))
    assert [90.0, 105.0] == run.ends_s()
    window = run.window(90)
    assert ["decode", "prefill"] == list(window.roles)
    assert (1, None, None) == (window.spec_revision, window.roles["decode"].coverage, window.roles["decode"].decode_tps)


def test_service_without_a_spec_ends_after_forget() -> None:
    """Last sample at 30 s, forget 600 s: the window to 630 is the last; a new sample begins anew."""
    run = Run().feed(*steady("i", 0, 30, 1), *ticks(31, 900))
    assert (60.0, 630.0) == (run.ends_s()[0], run.ends_s()[-1])
    run.feed(*in_time_order(steady("i", 905, 1_000, 1), ticks(901, 1_000)))
    assert 975.0 == run.ends_s()[run.ends_s().index(630.0) + 1]


def test_spec_change_takes_effect_live_without_losing_a_window() -> None:
    """Hop 15 s until 100 s, 10 s from then on: ends 60 … 90, then 100, 110."""
    run = Run(spec(), spec(revision=2, applied_s=100, size="40s", hop="10s")).feed(*in_time_order(steady("i", 0, 140, 5), ticks(0, 125)))
    assert [60.0, 75.0, 90.0, 100.0, 110.0] == run.ends_s()
    assert [1, 1, 1, 2, 2] == [window.spec_revision for window in run.windows]
    assert [60_000, 60_000, 60_000, 40_000, 40_000] == [window.end_ms - window.start_ms for window in run.windows]
    assert {5.0} == {window.roles["decode"].decode_tps for window in run.windows}


def test_tombstone_gives_the_defaults_again() -> None:
    """After the spec is let go its windows are those of a service without one."""
    run = Run(spec()).feed(*in_time_order(steady("i", 0, 90, 5), ticks(0, 70)))
    run.core.learn("chat", None, ms(70))
    run.feed(*ticks(71, 100))
    assert [1, None, None] == [window.spec_revision for window in run.windows]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generation_tokens", -1), ("kv_usage", 1.2), ("gpu_util", -0.1), ("running", "3"), ("at_ms", 1.5), ("state", "asleep"),
        ("gpus", -1), ("ttft", {"layout": "a", "counts": [1, -1], "sum_s": 0}), ("ttft", {"layout": "none", "counts": [1], "sum_s": 0}),
        ("ttft", {"layout": "a", "counts": [1], "sum_s": 0}), ("generation_tokens", float("nan")), ("waiting", float("inf")),
        ("running", 1.7e308), ("generation_tokens", 2**53 + 2), ("gpus", 10**30), ("ttft", {"layout": "a", "counts": [1, 1e300]}),
    ],
)  # fmt: skip
def test_bad_value_costs_its_own_sample_only(field: str, value: object) -> None:
    """The neighbours in the record are used; the bad one is refused with its own bytes."""
    bad = sample("bad", 5, **{field: value}) | ({"at_ms": value} if field == "at_ms" else {})
    mixed = record(sample("good", 5, generation_tokens=500), bad, layouts={"a": [0.1]})
    run = Run().feed(record(sample("good", 0, generation_tokens=0)), mixed, record(sample("good", 60, generation_tokens=6_000)), tick(70))
    (refused,) = run.refused
    assert (1, "bad") == (refused.offset, json.loads(refused.payload)["instance"])
    assert InstanceCounts(silent=1) == run.role(60).instances
    assert 100.0 == run.role(60).decode_tps


def test_absurd_rate_is_refused_and_the_next_sample_compares_with_the_last_good_one() -> None:
    """10^12 tokens in 5 s is no engine; afterwards 100 tokens/s go on."""
    spike = record(sample("i", 31, generation_tokens=10**12), sample("j", 31, generation_tokens=0))
    run = Run().feed(*in_time_order(steady("i", 0, 80, 100), [spike], ticks(0, 70)))
    (refused,) = run.refused
    assert ("absurd_rate", "i") == (refused.code, json.loads(refused.payload)["instance"])
    assert 100.0 == run.role(60).decode_tps


def test_sample_over_an_hour_ahead_of_the_newest_tick_is_refused() -> None:
    """3600 s ahead passes, 3601 s does not."""
    run = Run().feed(tick(0), record(sample("i", 3_601)), record(sample("i", 3_600)))
    assert [(1, "ahead_of_time")] == [(refused.offset, refused.code) for refused in run.refused]


def test_sample_far_ahead_before_the_first_tick_is_refused_by_it() -> None:
    """A clock years ahead holds neither the windows nor the commits back, whatever came first."""
    far = 400 * 86_400
    run = Run().feed(record(sample("i", far), sample("j", 0)), record(sample("k", far), service="only-garbage"), tick(0))
    assert [(0, "ahead_of_time", "i"), (1, "ahead_of_time", "k")] == [
        (found.offset, found.code, json.loads(found.payload)["instance"]) for found in run.refused
    ]
    run.feed(*in_time_order(steady("i", 1, 900, 100), ticks(1, 900)))
    assert (60.0, 100.0) == (run.ends_s()[0], run.role(75).decode_tps)
    assert [] == run.ends_s("only-garbage")
    assert 2 < (run.core.safe_offset() or 0)


def test_sample_as_far_ahead_as_a_tick_that_proves_wrong_is_refused() -> None:
    """While a tick is in doubt its hour counts; once the next tick does not confirm it, what it let through goes."""
    run = Run().feed(tick(0), tick(90_000), record(sample("i", 90_001), sample("j", 1)))
    assert [] == run.refused
    run.feed(tick(1))
    assert [(2, "i")] == [(found.offset, json.loads(found.payload)["instance"]) for found in run.refused]
    run.feed(tick(90_000), record(sample("i", 90_001)), tick(90_001))
    assert 1 == len(run.refused)


def test_gap_that_telemetry_does_not_keep_has_no_windows() -> None:
    """Two ticks eight days on: the service begins anew there, with the sample that came between them; ten years on, the same."""
    run = Run(spec()).feed(*in_time_order(steady("i", 0, 90, 100), ticks(0, 90)))
    before = run.ends_s()
    for days in (8, 3_650):
        start = days * 86_400
        run.feed(tick(start), record(sample("i", start, generation_tokens=0)), tick(start + 1))
        run.feed(*in_time_order(steady("i", start + 5, start + 90, 100), ticks(start + 2, start + 90)))
        first = next(end for end in run.ends_s() if end > start)
        assert start + 60 == first
        before += [end for end in run.ends_s() if end > start]
    assert before == run.ends_s()


def test_tick_that_no_clock_can_show_is_refused() -> None:
    """Beyond 2^53 ms a float could not hold it."""
    run = Run().feed({"kind": "tick", "at_ms": 2**53 + 1})
    assert [(0, "invalid")] == [(found.offset, found.code) for found in run.refused]


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"null", b'{"kind":"other"}', b'{"kind":"tick"}', b"\xff\xfe", b'{"kind":"samples","samples":[]}']
)
def test_garbage_record_is_refused_whole(payload: bytes) -> None:
    """With a code, its offset and its bytes."""
    run = Run().feed(payload)
    assert [(0, payload)] == [(refused.offset, refused.payload) for refused in run.refused]


def test_only_windows_after_the_newest_are_emitted_again() -> None:
    """After an assignment, what is on signals.v1 already is skipped."""
    documents = in_time_order(steady("i", 0, 140, 1), ticks(0, 130))
    assert [90.0, 105.0, 120.0] == Run(newest={"chat": ms(75)}).feed(*documents).ends_s()


def test_safe_offset_stays_behind_the_lookback_and_begins_at_a_tick() -> None:
    """It moves, but not past what a window that is still open can need: size + forget and a little more."""
    documents = in_time_order(steady("i", 0, 2_000, 1), ticks(0, 2_000))
    run = Run().feed(*documents)
    safe = run.core.safe_offset()
    assert safe is not None
    found = documents[safe]
    assert "tick" == found["kind"]
    assert ms(2_000) - 700_000 <= found["at_ms"] <= ms(2_000) - 660_000
    assert ORIGIN_S % 60 == 0


def test_memory_of_an_instance_is_bounded_whatever_it_sends() -> None:
    """More than 1024 samples inside one window's reach are refused, the others stay."""
    flood = [record(*[sample("i", second + k / 50, generation_tokens=0) for k in range(50)]) for second in range(60)]
    run = Run().feed(*flood, tick(70))
    assert {"too_many_samples"} == {refused.code for refused in run.refused}
    assert InstanceCounts(silent=1) == run.role(60).instances
    assert SAMPLES_PER_INSTANCE_MAX == 60 * 50 - len(run.refused)


def test_state_and_gauges_are_those_of_the_last_sample_before_the_end() -> None:
    """A sample exactly at the end belongs to the next window."""
    run = Run().feed(
        record(sample("i", 0)), record(sample("i", 59, state="draining", running=1)), record(sample("i", 60, running=9)), tick(70)
    )
    assert (InstanceCounts(draining=1), 1.0) == (run.role(60).instances, run.role(60).running)


def test_restart_after_a_spec_change_loses_no_window() -> None:
    """A service without samples whose second revision is minutes old: its windows go on from the newest, not from that revision."""
    specs = spec(applied_s=0), spec(revision=2, applied_s=980)
    run = Run(*specs, newest={"chat": ms(975)}).feed(*ticks(300, 1_030))
    assert [990.0, 1_005.0, 1_020.0] == run.ends_s()


def test_service_that_runs_nothing_misses_no_window_when_a_restart_begins_after_a_leap_of_ticks() -> None:
    """The restart hears the tick at 501 s first, and goes on after the window that the earlier life published."""
    brief = spec(size="20s", hop="10s", interval="3s", allowed_lateness="2s", silence="6s", forget="40s")
    leap = [tick(0), tick(501), tick(590)]
    whole = Run(brief).feed(*leap)
    before = Run(brief).feed(*leap[:2])
    begin = before.core.safe_offset()
    assert 1 == begin
    after = Run(brief, newest=before.core.newest).feed(*leap[begin:])
    assert whole.ends_s() == before.ends_s() + after.ends_s()
