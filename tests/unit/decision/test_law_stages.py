"""Each stage of the law by examples, and every reason code reached by a whole step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Action, Decision, Reason, RoleAfter
from heteroscale.contracts.names import decision_id
from heteroscale.contracts.placements import PlacementStatus
from heteroscale.contracts.signals import GpuTypeSignal
from heteroscale.contracts.spec import Mode
from heteroscale.decision.law.setting import LIVE
from heteroscale.decision.law.verdict import REASONS, Use
from support import lawbook
from support.lawbook import HOP_MS, START_MS, WARM, Run, counts, stage_reasons

SOFT = {"scale_in": {"soft": {"observe": "30s"}}}


def move(decision: Decision) -> tuple[str, str, int]:
    """Action, reason and the lead's count."""
    return decision.action.value, decision.reason.value, counts(decision)["decode"]


# raw


@pytest.mark.parametrize(
    ("n", "load", "expected"),
    [
        (10, 10.5, ("hold", "steady", 10)),  # exactly at the tolerance: no wish
        (10, 10.51, ("scale-out", "demand", 11)),
        (10, 8.5, ("hold", "steady", 10)),
        (10, 8.49, ("scale-in", "demand", 9)),
        (10, 25.0, ("scale-out", "demand", 20)),  # +100 % a minute
        (10, 0.0, ("scale-in", "demand", 2)),  # zero demand with coverage is data
    ],
)
def test_raw_tolerance_and_ceiling(n: int, load: float, expected: tuple[str, str, int]) -> None:
    """Out above n(1 + tolerance), in below n(1 - tolerance), to ceil(d)."""
    run = Run(lawbook.spec())
    run.window(decode=n, load=float(n))
    decision = run.window(decode=n, load=load)
    if load < n * 0.85:
        assert ("hold", "stabilizing", n) == move(decision)
        decision = run.window(decode=n, load=load)
    assert expected == move(decision)


def test_raw_pending_is_never_ordered_twice() -> None:
    """2 → 4 → 8 → 16 must not happen while instances load: what serves does not enter."""
    run = Run(lawbook.spec())
    run.window(decode=2, load=2.0)
    assert ("scale-out", "demand", 4) == move(run.window(decode=2, load=3.9))
    for _ in range(12):
        assert ("hold", "steady", 4) == move(run.window(decode=2, loading=2, load=3.9))


def test_raw_weight_of_gpu_types() -> None:
    """D is demand over target times the mean weight of the serving instances."""
    roles = {
        "prefill": {"min": 1, "max": 50, "gpus": 8},
        "decode": {"min": 2, "max": 100, "gpus": 8, "gpu_types": [{"type": "A"}, {"type": "B", "weight": 0.5}]},
    }
    run = Run(lawbook.spec(roles=roles))
    mixed = {
        "A": {"serving": 2, "decode_tps": None, "prefill_tps": None},
        "B": {"serving": 2, "decode_tps": None, "prefill_tps": None},
    }
    by_type = {name: codec.convert(GpuTypeSignal, found) for name, found in mixed.items()}
    run.window(decode=4, load=3.0, by_gpu_type=by_type)
    assert ("scale-out", "demand", 6) == move(run.window(decode=4, load=4.5, by_gpu_type=by_type))


def test_raw_largest_of_several_signals_carried_to_the_lead() -> None:
    """A prefill signal asks for the smallest n whose derived count suffices, and scale-in needs all signals to agree."""
    signals = [
        {"metric": "decode_tps", "role": "decode", "target": 1000.0},
        {"metric": "prefill_missed_tps", "role": "prefill", "target": 100.0},
    ]
    run = Run(lawbook.spec(signals=signals))

    def prefill(load: float) -> dict[str, Any]:
        return {"prefill": lawbook.role(2, prefill_missed_tps=load * 100.0)}

    run.window(decode=4, load=4.0, roles=prefill(2.0))
    assert ("scale-out", "demand", 5) == move(run.window(decode=4, load=4.0, roles=prefill(3.0)))
    run = Run(lawbook.spec(signals=signals))
    run.window(decode=4, load=4.0, roles=prefill(2.0))
    for _ in range(3):
        assert 3 <= counts(run.window(decode=4, load=1.0, roles=prefill(2.0)))["decode"]
    run = Run(lawbook.spec(signals=signals))
    run.window(decode=4, load=4.0, roles=prefill(2.0))
    assert "hold" == run.window(decode=4, load=4.0, roles=prefill(2.1)).action  # at prefill's own tolerance
    assert ("scale-out", "demand", 5) == move(run.window(decode=4, load=4.0, roles=prefill(2.11)))


def test_raw_a_signal_in_its_band_is_steady_whatever_another_lacks() -> None:
    """A scale-in needs all signals to agree; one that does not wish it says so before another's missing data does."""
    signals = [*lawbook.PLAIN["signals"], {"metric": "prefill_missed_tps", "role": "prefill", "target": 100.0}]
    run = Run(lawbook.spec(signals=signals))
    run.window(decode=4, load=4.0)
    assert ("hold", "steady", 4) == move(run.window(decode=4, load=3.9))
    assert ("hold", "missing_data", 4) == move(run.window(decode=4, load=2.0))


def test_raw_pending_of_the_lead_hides_the_demand_of_a_carried_signal() -> None:
    """While any of n is pending, the largest d, carried to the lead, must be carried by what serves of it."""
    signals = [*lawbook.PLAIN["signals"], {"metric": "prefill_missed_tps", "role": "prefill", "target": 100.0}]
    run = Run(lawbook.spec(signals=signals))
    prefill = {"prefill": lawbook.role(4, prefill_missed_tps=250.0)}  # 3 prefill, so 5 decode
    run.window(decode=4, loading=4, load=3.0, roles=prefill)
    assert ("hold", "pending", 8) == move(run.window(decode=4, loading=4, load=3.0, roles=prefill))
    run.window(decode=5, loading=3, load=3.0, roles=prefill)
    assert ("scale-in", "demand", 5) == move(run.window(decode=5, loading=3, load=3.0, roles=prefill))


@pytest.mark.parametrize("metric", ["gpu_util", "sm_active", "kv_usage"])
def test_raw_mean_metrics(metric: str) -> None:
    """A mean becomes a demand by the serving count."""
    run = Run(lawbook.spec(signals=[{"metric": metric, "role": "decode", "target": 0.5}]))
    run.window(decode=4, load=None, **{metric: 0.5})
    assert ("scale-out", "demand", 8) == move(run.window(decode=4, load=None, **{metric: 0.95}))


def test_raw_metric_none_leaves_the_count() -> None:
    """Without a signal only schedules and bounds move the count."""
    run = Run(lawbook.spec(signals=[{"metric": "none"}]))
    run.window(decode=4, load=None)
    assert ("hold", "steady", 4) == move(run.window(decode=4, load=99.0))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"coverage": 0.79}, "missing_data"),
        ({"coverage": None}, "missing_data"),
        ({"load": None}, "missing_data"),
        ({"coverage": 0.85, "load": 8.4}, "missing_data"),  # what is unseen is added: 8.4 + 1.5
    ],
)
def test_raw_missing_data_never_scales_in(fields: dict[str, Any], reason: str) -> None:
    """MISSING-IS-NOT-ZERO: low coverage, an unknown rate or an unknown coverage hold."""
    run = Run(lawbook.spec())
    run.window(decode=10, load=9.0)
    for _ in range(3):
        assert ("hold", reason, 10) == move(run.window(**({"decode": 10, "load": 1.0} | fields)))


def test_raw_low_coverage_still_scales_out() -> None:
    """What is seen is enough to grow on."""
    run = Run(lawbook.spec())
    run.window(decode=4, load=4.0)
    assert ("scale-out", "demand", 6) == move(run.window(decode=4, load=6.0, coverage=0.5))


def test_raw_pending_hides_demand() -> None:
    """While some of n is pending, scale-in needs a demand that what serves could carry."""
    run = Run(lawbook.spec())
    run.window(decode=4, load=4.0)
    assert 8 == counts(run.window(decode=4, load=8.0))["decode"]
    assert ("hold", "pending", 8) == move(run.window(decode=4, loading=4, load=4.5))
    assert ("hold", "stabilizing", 8) == move(run.window(decode=5, loading=3, load=4.5))
    assert ("scale-in", "demand", 5) == move(run.window(decode=5, loading=3, load=4.5))


@pytest.mark.parametrize(
    ("fallback", "expected"),
    [("hold", ("hold", "missing_data", 4)), ("max-recent", ("scale-out", "fallback", 6)), ("schedule", ("hold", "missing_data", 4))],
)
def test_missing_data_fallback_after_escalate_after(fallback: str, expected: tuple[str, str, int]) -> None:
    """Nothing heard for `escalate_after`: the fallback, not before."""
    run = Run(lawbook.spec(missing_data={"fallback": fallback, "escalate_after": "60s"}))
    run.window(decode=6, load=6.0)
    for _ in range(2):
        run.window(decode=6, load=3.6)
    assert 4 == run.n()
    for _ in range(4):
        assert ("hold", "missing_data", 4) == move(run.window(decode=0, silent=4, load=None))
    assert expected == move(run.window(decode=0, silent=4, load=None))


def test_missing_data_fallback_takes_the_schedule_count() -> None:
    """The active schedule's fixed count is the fallback."""
    run = Run(
        lawbook.spec(
            missing_data={"fallback": "schedule", "escalate_after": "15s"}, schedules=[always(replicas={"decode": 8, "prefill": 4})]
        )
    )
    decision = run.window(decode=4, load=None)
    assert 8 == counts(decision)["decode"]


# guard

GUARDS = [{"latency": "tbt", "quantile": "p95", "moderate": "60ms", "severe": "80ms"}]


@pytest.mark.parametrize(
    ("p95", "count", "expected"),
    [
        (60.0, 500, ("scale-out", "guard_moderate", 11)),
        (80.0, 500, ("scale-out", "guard_severe", 12)),
        (59.9, 500, ("hold", "steady", 10)),
        (200.0, 49, ("hold", "steady", 10)),  # too few to judge
    ],
)
def test_guard_steps(p95: float, count: int, expected: tuple[str, str, int]) -> None:
    """At or above a threshold: +10 % or +20 % of what serves, at least one."""
    run = Run(lawbook.spec(guards=GUARDS))
    run.window(decode=10, load=10.0)
    assert expected == move(run.window(decode=10, load=10.0, tbt_ms=lawbook.latency(p95, count)))


def test_guard_waits_until_its_step_has_served_a_full_window() -> None:
    """No ratchet: the next step comes one full window after the last one serves."""
    run = Run(lawbook.spec(guards=GUARDS))
    run.window(decode=10, load=10.0)
    high = lawbook.latency(90.0)
    assert ("scale-out", "guard_severe", 12) == move(run.window(decode=10, load=10.0, tbt_ms=high))
    for _ in range(6):
        assert ("hold", "guard_waits_for_pending", 12) == move(run.window(decode=10, loading=2, load=10.0, tbt_ms=high))
    for _ in range(4):  # it serves; a window still holds the latency of before
        assert ("hold", "guard_waits_for_pending", 12) == move(run.window(decode=12, load=10.0, tbt_ms=high))
    assert ("scale-out", "guard_severe", 15) == move(run.window(decode=12, load=10.0, tbt_ms=high))


def test_guard_step_that_timed_out_is_waited_for_no_longer() -> None:
    """After `pending.timeout` the next step may come."""
    run = Run(lawbook.spec(guards=GUARDS, behavior={"pending": {"timeout": "60s"}}))
    run.window(decode=10, load=10.0)
    high = lawbook.latency(90.0)
    assert 12 == counts(run.window(decode=10, load=10.0, tbt_ms=high))["decode"]
    for _ in range(4):
        run.window(decode=11, loading=1, load=10.0, tbt_ms=high)
    assert ("scale-out", "guard_severe", 14) == move(run.window(decode=11, loading=1, load=10.0, tbt_ms=high))


def test_guard_blocks_scale_in_near_its_threshold() -> None:
    """At 90 % of moderate or above there is no scale-in."""
    run = Run(lawbook.spec(guards=GUARDS))
    run.window(decode=10, load=10.0)
    run.window(decode=10, load=5.0)
    assert ("hold", "guard_blocks", 10) == move(run.window(decode=10, load=5.0, tbt_ms=lawbook.latency(54.0)))
    run.window(decode=10, load=5.0, tbt_ms=lawbook.latency(53.9))
    assert ("scale-in", "demand", 5) == move(run.window(decode=10, load=5.0, tbt_ms=lawbook.latency(53.9)))


def test_guard_judges_the_worst_role_or_its_own() -> None:
    """Without `role` the worst role speaks; with one, only that one."""
    slow = {"prefill": lawbook.role(5, tbt_ms=lawbook.latency(90.0))}
    for role, action in ((None, "scale-out"), ("decode", "hold"), ("prefill", "scale-out")):
        run = Run(lawbook.spec(guards=[GUARDS[0] | {"role": role}]))
        run.window(decode=10, load=10.0)
        assert action == run.window(decode=10, load=10.0, roles=slow).action


# schedule and bounds


def always(**fields: Any) -> dict[str, Any]:
    """A schedule that is active at all times of the tests."""
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    return {"name": "always", "timezone": "UTC", "days": days, "start": "00:00", "end": "24:00", **fields}


def test_schedule_bounds_replace_the_base() -> None:
    """An active schedule's min takes the place of the role's, and brings n back at once."""
    run = Run(lawbook.spec(schedules=[always(roles={"decode": {"min": 12}})], behavior={"scale_out": {"cooldown": "10m"}}))
    assert ("scale-out", "bounds", 12) == move(run.window(decode=4, load=4.0))
    assert {"bounds": "bounds"} == stage_reasons(run.decisions[-1])


def test_schedule_replicas_fix_the_count() -> None:
    """Fixed counts hold against demand (`schedule_fixed`) and move the count to theirs (`schedule`)."""
    run = Run(lawbook.spec(schedules=[always(replicas={"prefill": 3, "decode": 6})]))
    assert ("scale-out", "schedule", 6) == move(run.window(decode=4, load=4.0))
    assert ("hold", "schedule_fixed", 6) == move(run.window(decode=6, load=20.0))


@pytest.mark.parametrize(
    ("role", "bound", "n"),
    [("decode", 7, 7), ("prefill", 3, 6)],
)
def test_bounds_of_every_role_are_mapped_to_the_lead(role: str, bound: int, n: int) -> None:
    """The max of any role ends the feasible set, and the reason names it."""
    roles = {"prefill": {"min": 1, "max": 50, "gpus": 8}, "decode": {"min": 2, "max": 100, "gpus": 8}}
    roles[role] = roles[role] | {"max": bound}
    run = Run(lawbook.spec(roles=roles))
    run.window(decode=4, load=4.0)
    decision = run.window(decode=4, load=8.0)
    assert ("scale-out", "demand", n) == move(decision)
    assert f"{role} max {bound}" in decision.stages[3].detail
    assert ("hold", "at_bound", n) == move(run.window(decode=n, load=30.0))


def test_bounds_return_inward_goes_at_once_past_rate_and_cooldown() -> None:
    """A lower max after a change of the spec: rate, stabilisation and cooldown do not apply to the return."""
    calm = {"scale_in": {"stabilization": "300s", "cooldown": "600s", "policies": [{"type": "pods", "value": 1, "period": "600s"}]}}
    run = Run(lawbook.spec(behavior=calm))
    run.window(decode=10, load=10.0)
    roles = {"prefill": {"min": 1, "max": 3, "gpus": 8}, "decode": {"min": 2, "max": 100, "gpus": 8}}
    run.apply(lawbook.spec(behavior=calm, roles=roles, revision=2))
    assert ("scale-in", "bounds", 6) == move(run.window(decode=10, load=10.0))


# rate, stabilize, cooldown


@pytest.mark.parametrize(
    ("policies", "select", "reached"),
    [
        ([{"type": "percent", "value": 50, "period": "60s"}], "max", 15),
        ([{"type": "pods", "value": 3, "period": "60s"}], "max", 13),
        ([{"type": "pods", "value": 3, "period": "60s"}, {"type": "percent", "value": 50, "period": "60s"}], "max", 15),
        ([{"type": "pods", "value": 3, "period": "60s"}, {"type": "percent", "value": 50, "period": "60s"}], "min", 13),
        ([{"type": "percent", "value": 1, "period": "60s"}], "max", 11),  # at least one
        ([{"type": "percent", "value": 100, "period": "60s"}], "disabled", 10),
    ],
)
def test_rate_policies_on_the_way_out(policies: list[dict[str, Any]], select: str, reached: int) -> None:
    """The count at the period's start, plus the step; nothing more until the period is over."""
    run = Run(lawbook.spec(behavior={"scale_out": {"policies": policies, "select": select}}))
    run.window(decode=10, load=10.0)
    for _ in range(4):
        assert reached == counts(run.window(decode=10, load=40.0))["decode"]
    assert "rate_limited" == run.decisions[-1].reason
    after = counts(run.window(decode=10, load=40.0))["decode"]
    assert (after > reached) == (select != "disabled")


def test_rate_policies_on_the_way_in_round_down() -> None:
    """20 % of 9 is one instance."""
    inward = {"policies": [{"type": "percent", "value": 20, "period": "300s"}]}
    run = Run(lawbook.spec(behavior={"scale_in": inward}))
    run.window(decode=9, load=9.0)
    run.window(decode=9, load=2.0)
    assert ("scale-in", "demand", 8) == move(run.window(decode=9, load=2.0))
    assert ("hold", "rate_limited", 8) == move(run.window(decode=8, load=2.0))


def test_stabilize_scale_in_takes_the_highest_of_its_window() -> None:
    """The record begins with the adopted n; a low load from then on scales in after exactly the window."""
    run = Run(lawbook.spec(behavior={"scale_in": {"stabilization": "120s"}}))
    decisions = [run.window(decode=10, load=4.0) for _ in range(9)]
    assert ["stabilizing"] * 8 == [decision.reason.value for decision in decisions[:8]]
    assert ("scale-in", "demand", 4) == move(decisions[8])


def test_stabilize_scale_out_takes_the_lowest_of_its_window() -> None:
    """A spike shorter than the window moves nothing."""
    run = Run(lawbook.spec(behavior={"scale_out": {"stabilization": "45s"}}))
    run.window(decode=4, load=4.0)
    assert ("hold", "stabilizing", 4) == move(run.window(decode=4, load=8.0))
    assert ("hold", "steady", 4) == move(run.window(decode=4, load=4.0))
    assert ["hold", "hold", "scale-out"] == [run.window(decode=4, load=7.0 - i).action.value for i in range(3)]
    assert 5 == run.n()


def test_cooldown_of_each_direction() -> None:
    """Out waits for the last out; in waits for both; a guard alarm waits for none."""
    run = Run(lawbook.spec(guards=GUARDS, behavior={"scale_out": {"cooldown": "60s"}, "scale_in": {"cooldown": "120s"}}))
    run.window(decode=4, load=4.0)
    assert 5 == counts(run.window(decode=4, load=5.0))["decode"]
    assert ("hold", "cooldown", 5) == move(run.window(decode=5, load=7.0))
    assert ("scale-out", "guard_severe", 6) == move(run.window(decode=5, load=7.0, tbt_ms=lawbook.latency(99.0)))
    for _ in range(3):
        assert ("hold", "cooldown", 6) == move(run.window(decode=6, load=3.0)) or run.decisions[-1].reason is Reason.STABILIZING
    assert ("scale-in", "demand", 3) == move(run.window(decode=6, load=3.0))
    for _ in range(7):
        assert ("hold", "cooldown", 3) == move(run.window(decode=3, load=1.9)) or run.decisions[-1].reason is Reason.STABILIZING
    assert ("scale-in", "demand", 2) == move(run.window(decode=3, load=1.9))


# capacity


def placed_run(**fields: Any) -> Run:
    """A warm service with 4 decode and 2 prefill instances, placed under revision 1."""
    run = Run(lawbook.spec(**fields), setting=WARM)
    run.give(lawbook.placement(1, seq=1, counts={"decode": {"ready": 4}, "prefill": {"ready": 2}}))
    run.window(decode=4, load=4.0)
    return run


def test_capacity_limited_while_the_commanded_revision_is_short() -> None:
    """A shortfall of the commanded revision stops raises; one of an older revision says nothing."""
    run = placed_run()
    assert ("scale-out", "demand", 8) == move(run.window(decode=4, load=8.0))
    have = {"decode": {"ready": 4}, "prefill": {"ready": 2}}
    run.give(lawbook.placement(1, seq=2, counts=have, status=PlacementStatus.PARTIAL, shortfall={"decode": 4, "prefill": 2}))
    run.at += 3
    assert ("scale-out", "demand", 9) == move(run.window(decode=4, load=9.0))
    run.give(lawbook.placement(3, seq=3, counts=have, status=PlacementStatus.PARTIAL, shortfall={"decode": 5, "prefill": 3}))
    assert ("hold", "capacity_limited", 9) == move(run.window(decode=4, load=12.0))
    assert "5 decode, 3 prefill" in run.decisions[-1].stages[7].detail


def test_capacity_may_rise_to_a_whole_unit() -> None:
    """A shortfall that holds no whole unit: at most to the smallest n at which it does."""
    run = placed_run()
    assert 5 == counts(run.window(decode=4, load=5.0))["decode"]
    have = {"decode": {"ready": 5}, "prefill": {"ready": 2}}
    run.give(lawbook.placement(2, seq=2, counts=have, status=PlacementStatus.PARTIAL, shortfall={"prefill": 1}))
    assert ("scale-out", "demand", 7) == move(run.window(decode=5, load=9.0))


# soft


def test_soft_scale_in_observes_then_finalizes() -> None:
    """Offline, observing starts at the first window after the command and lasts `observe`."""
    run = Run(lawbook.spec(behavior=SOFT))
    run.window(decode=10, load=10.0)
    run.window(decode=10, load=8.0)
    decision = run.window(decode=10, load=8.0)
    assert ("scale-in", "demand", 8) == move(decision)
    assert RoleAfter(replicas=8, draining=2) == decision.after["decode"]
    assert ["observing", "observing"] == [run.window(decode=8, draining=2, load=8.0).reason.value for _ in range(2)]
    done = run.window(decode=8, draining=2, load=8.0)
    assert ("finalize", "observed", 8) == move(done)
    assert RoleAfter(replicas=8, draining=0) == done.after["decode"]
    assert ("hold", "steady", 8) == move(run.window(decode=8, load=8.0))


def test_soft_restores_what_is_needed_and_lets_the_rest_drain() -> None:
    """V above m restores min(draining, v - m), past every rate and cooldown; the clock goes on."""
    run = Run(lawbook.spec(behavior=SOFT | {"scale_out": {"cooldown": "10m"}}))
    run.window(decode=10, load=10.0)
    for _ in range(2):
        decision = run.window(decode=10, load=6.0)
    assert ("scale-in", "demand", 6) == move(decision)
    decision = run.window(decode=6, draining=4, load=7.5)
    assert ("restore", "demand", 8) == move(decision)
    assert RoleAfter(replicas=8, draining=2) == decision.after["decode"]
    assert RoleAfter(replicas=4, draining=1) == decision.after["prefill"]
    run.window(decode=8, draining=2, load=7.5)
    assert ("finalize", "observed", 8) == move(run.window(decode=8, draining=2, load=7.5))


def test_soft_guard_restores() -> None:
    """A latency alarm brings back what drains."""
    run = Run(lawbook.spec(behavior=SOFT, guards=GUARDS))
    run.window(decode=10, load=10.0)
    for _ in range(2):
        run.window(decode=10, load=8.0)
    assert ("restore", "guard", 10) == move(run.window(decode=8, draining=2, load=7.9, tbt_ms=lawbook.latency(90.0)))


def test_soft_observe_grows_by_windows_without_coverage() -> None:
    """A window below `min_coverage` is no judgement."""
    run = Run(lawbook.spec(behavior=SOFT))
    run.window(decode=10, load=10.0)
    for _ in range(2):
        run.window(decode=10, load=8.0)
    reasons = [run.window(decode=8, draining=2, load=8.0, coverage=0.5 if i == 1 else 1.0).action.value for i in range(4)]
    assert ["hold", "hold", "hold", "finalize"] == reasons


def test_soft_waits_for_placement_to_list_what_drains() -> None:
    """With a placement service, observing starts at the first window after it lists the draining ones."""
    run = Run(lawbook.spec(behavior=SOFT), setting=WARM)
    run.give(lawbook.placement(1, seq=1, counts={"decode": {"ready": 4}, "prefill": {"ready": 2}}))
    run.window(decode=4, load=4.0)
    for _ in range(2):
        decision = run.window(decode=4, load=3.0)
    assert ("scale-in", "demand", 3) == move(decision)
    for _ in range(6):
        assert ("hold", "observing", 3) == move(run.window(decode=4, load=3.0))
    run.give(lawbook.placement(2, seq=2, counts={"decode": {"ready": 3, "draining": 1}, "prefill": {"ready": 2}}))
    assert ["hold", "hold", "finalize"] == [run.window(decode=3, draining=1, load=3.0).action.value for _ in range(3)]


def test_unadopted_instances_are_never_commanded_away() -> None:
    """A scale-in that would need instances that nobody of us placed holds; the command never counts them."""
    run = Run(lawbook.spec(), setting=LIVE)
    run.give(lawbook.placement(1, seq=1, counts={"decode": {"ready": 1}, "prefill": {"ready": 1}}))
    for _ in range(5):
        run.window(decode=4, load=4.0, prefill=2)
    assert 3 == run.decisions[-1].before["decode"].foreign
    run.window(decode=4, load=1.0, prefill=2)
    assert ("hold", "unadopted", 4) == move(run.window(decode=4, load=1.0, prefill=2))
    assert ("scale-out", "demand", 6) == move(run.window(decode=4, load=6.0, prefill=2))
    assert 3 == run.commands[-1].roles["decode"].replicas


def test_a_service_that_is_emptied_comes_to_nothing() -> None:
    """As `delete --drain` does it: min = max = 0 drains all at once, observes, lets go, and rests at 0 when all has stopped."""
    run = Run(lawbook.spec(behavior=SOFT), setting=LIVE)
    run.give(lawbook.placement(1, seq=1, counts={"decode": {"ready": 4}, "prefill": {"ready": 2}}))
    for _ in range(5):
        run.window(decode=4, load=4.0)
    nothing = {name: {"min": 0, "max": 0, "gpus": 8} for name in ("prefill", "decode")}
    run.apply(lawbook.spec(behavior=SOFT, roles=nothing, revision=2))
    assert ("scale-in", "bounds", 0) == move(run.window(decode=4, load=4.0))
    revision = run.commands[-1].revision
    run.give(lawbook.placement(revision, seq=2, counts={"decode": {"draining": 4}, "prefill": {"draining": 2}}))
    held = [run.window(decode=0, draining=4, load=0.0, prefill=0).action.value for _ in range(3)]
    assert ["hold", "hold", "finalize"] == held
    assert {"decode": (0, 0), "prefill": (0, 0)} == {name: (role.replicas, role.draining) for name, role in run.commands[-1].roles.items()}
    run.give(lawbook.placement(run.commands[-1].revision, seq=3, counts={}))
    assert ("hold", "steady", 0) == move(run.window(decode=0, load=None, prefill=0))


def test_foreign_counts_what_is_not_listed_at_all() -> None:
    """A failed instance that a Placement still lists and an engine still calls serving is no stranger."""
    run = Run(lawbook.spec(), setting=LIVE)
    run.give(lawbook.placement(1, seq=1, counts={"decode": {"ready": 3, "failed": 1}, "prefill": {"ready": 2}}))
    for _ in range(6):
        assert 0 == run.window(decode=4, load=4.0).before["decode"].foreign


def test_shadow_asks_placement_only_for_what_it_would_command() -> None:
    """Foreign instances hold their GPUs already: `after` counts them, the dry-run command does not."""
    run = Run(lawbook.spec(mode="shadow"), setting=LIVE)
    run.give(lawbook.placement(1, seq=1, counts={"decode": {"ready": 1}, "prefill": {"ready": 1}}))
    for _ in range(5):
        run.window(decode=4, load=4.0, prefill=2)
    decision = run.window(decode=4, load=6.0, prefill=2)
    assert {"decode": 6, "prefill": 3} == counts(decision)
    assert {"decode": 3, "prefill": 2} == {name: role.replicas for name, role in run.commands[-1].roles.items()}


def test_foreign_is_not_judged_on_a_list_newer_than_the_window() -> None:
    """An instance that just stopped is still counted for a while: it is not somebody else's. A real newcomer is, later."""
    run = placed_run()
    run.give(lawbook.placement(1, seq=2, counts={"decode": {"ready": 3}, "prefill": {"ready": 2}}))
    for _ in range(2):
        assert 0 == run.window(decode=4, load=4.0).before["decode"].foreign
    for _ in range(3):
        assert 0 == run.window(decode=3, silent=1, load=3.9).before["decode"].foreign
    for _ in range(2):
        decision = run.window(decode=5, load=4.0)
    assert 2 == decision.before["decode"].foreign


# final, cold start, deficit, external changes


@pytest.mark.parametrize(
    ("mode", "load", "expected"),
    [
        ("paused-out", 8.0, ("hold", "paused", 4)),
        ("paused-in", 8.0, ("scale-out", "demand", 8)),
        ("paused-in", 2.0, ("hold", "paused", 4)),
        ("paused-out", 2.0, ("scale-in", "demand", 2)),
        ("paused", 8.0, ("hold", "paused", 4)),
        ("suspended", 8.0, ("hold", "suspended", 4)),
    ],
)
def test_final_modes(mode: str, load: float, expected: tuple[str, str, int]) -> None:
    """paused-in and paused-out block one direction, paused both, suspended lets go."""
    run = Run(lawbook.spec(mode=mode))
    run.window(decode=4, load=4.0)
    run.window(decode=4, load=3.9 if load > 4 else load)
    assert expected == move(run.window(decode=4, load=load))


def test_final_until_ends_the_mode() -> None:
    """From `until` on, `then` follows."""
    run = Run(lawbook.spec(mode="paused", until="2026-05-28T20:28Z", then="active"))
    first, later = run.window(decode=4, load=8.0), run.window(decode=4, load=8.0)
    assert first.at_ms < later.at_ms
    ends = run.spec.until.ms if run.spec.until else 0
    run.at = (ends - START_MS) // HOP_MS
    decision = run.window(decode=4, load=8.0)
    assert (Mode.PAUSED, Mode.ACTIVE) == (first.mode, decision.mode)
    assert ("scale-out", "demand", 8) == move(decision)


def test_shadow_recommends_by_dry_run_and_keeps_what_runs() -> None:
    """`after` is what would be commanded; the next n is what runs; the answer tells whether it could have been placed."""
    run = Run(lawbook.spec(mode="shadow", behavior={"scale_out": {"cooldown": "60s"}}), setting=WARM)
    run.window(decode=4, load=4.0)
    decision = run.window(decode=4, load=8.0)
    assert ("scale-out", "demand", 8) == move(decision)
    assert run.commands[-1].dry_run
    assert decision.command_id == decision.id == run.commands[-1].id
    run.give(lawbook.placement(1, seq=1, counts={}, shortfall={"decode": 4}, dry_run=True))
    after = run.window(decode=4, load=8.0)
    assert ("hold", "cooldown", 4) == move(after)
    assert None is after.command_id
    assert "could not have been placed, short of 4 decode" in after.stages[9].detail


def test_cold_start_adopts_and_holds_for_one_full_window() -> None:
    """Per role the larger of what runs and what the newest Placement lists; then one full window is only watched."""
    run = Run(lawbook.spec(), setting=LIVE)
    run.give(lawbook.placement(7, seq=3, counts={"decode": {"ready": 5, "failed": 2, "stopping": 1}, "prefill": {"ready": 3}}))
    decisions = [run.window(decode=4, load=9.0) for _ in range(4)]
    assert [("hold", "cold_start", 5)] * 4 == [move(decision) for decision in decisions]
    assert [] == run.commands
    decision = run.window(decode=4, load=9.0)
    assert ("scale-out", "demand", 9) == move(decision)
    assert 8 == run.commands[-1].revision


def test_cold_start_with_nothing_running_commands_the_minimum() -> None:
    """N = 0 is known, not missing."""
    run = Run(lawbook.spec(), setting=LIVE)
    for _ in range(4):
        assert "cold_start" == run.window(decode=0, load=None).reason
    assert ("scale-out", "bounds", 2) == move(run.window(decode=0, load=None))
    assert {"decode": 2, "prefill": 1} == counts(run.decisions[-1])


def test_adoption_above_the_last_command_is_commanded_again() -> None:
    """A Placement above our command (someone adopted instances) makes the next window command again, from its counts."""
    run = Run(lawbook.spec(), setting=LIVE)
    run.give(lawbook.placement(1, seq=1, counts={"decode": {"ready": 2}, "prefill": {"ready": 2}}))
    for _ in range(5):
        run.window(decode=4, load=4.0)
    assert 2 == run.decisions[-1].before["decode"].foreign
    run.give(lawbook.placement(5, seq=2, counts={"decode": {"ready": 4}, "prefill": {"ready": 2}}))
    decision = run.window(decode=4, load=4.0)
    assert ("hold", "steady", 4) == move(decision)
    assert (6, 4, decision.id) == (run.commands[-1].revision, run.commands[-1].roles["decode"].replicas, decision.command_id)


def test_repair_commands_a_deficit_up_and_drains_an_excess() -> None:
    """PAIR: a role below derive(n) is commanded up at once; an excess drains."""
    run = Run(lawbook.spec(behavior=SOFT))
    decision = run.window(decode=8, prefill=2, load=8.0)
    assert ("scale-out", "repair", 8) == move(decision)
    assert 4 == counts(decision)["prefill"]
    run = Run(lawbook.spec(behavior=SOFT))
    decision = run.window(decode=8, prefill=6, load=8.0)
    assert ("scale-in", "repair", 8) == move(decision)
    assert RoleAfter(replicas=4, draining=2) == decision.after["prefill"]


def test_external_change_is_adopted_after_one_full_window_without_placement() -> None:
    """Never fight a person: with `placement: none` the observed count is adopted in either direction, once it has stood."""
    for after in (3, 6):
        run = Run(lawbook.spec(placement="none"))
        for _ in range(3):
            run.window(decode=4, load=4.0)
        for _ in range(4):
            assert 4 == counts(run.window(decode=after, load=4.0))["decode"]
        assert ("scale-out" if after > 4 else "scale-in", "external_change", after) == move(run.window(decode=after, load=4.0))


def test_external_change_downward_waits_for_the_timeout_and_never_follows_silence() -> None:
    """Short of the command for longer than `pending.timeout`; not if a silent instance was counted since the fall."""
    for silent in (0, 1):
        run = Run(lawbook.spec(behavior={"pending": {"timeout": "60s"}}))
        run.window(decode=4, load=4.0)
        run.window(decode=3, silent=silent, load=4.0)
        actions = [run.window(decode=3, load=4.0).reason.value for _ in range(8)]
        assert (silent == 0) == ("external_change" in actions)


def test_nobody_heard_is_no_external_change_while_the_placement_lists_instances() -> None:
    """Absent telemetry never lowers capacity: a role that runs by its Placement and was never heard keeps its count.

    One that is gone among others that are heard is adopted.
    """
    for heard in (0, 3):
        run = Run(lawbook.spec(behavior={"pending": {"timeout": "60s"}}), setting=LIVE)
        run.give(lawbook.placement(1, seq=1, counts={"decode": {"ready": 2}, "prefill": {"ready": 1}}))
        for _ in range(5):
            run.window(decode=2, prefill=1, load=2.0)
        run.window(decode=2, prefill=1, load=4.0)
        run.give(lawbook.placement(run.commands[-1].revision, seq=2, counts={"decode": {"ready": 4}, "prefill": {"ready": 2}}))
        reasons = [run.window(decode=heard, prefill=min(2, heard), load=4.0 if heard else None).reason.value for _ in range(12)]
        assert (heard > 0) == ("external_change" in reasons)
        assert heard or {"decode": 4, "prefill": 2} == counts(run.decisions[-1])


def test_spec_changed_holds_windows_of_an_older_revision() -> None:
    """A window built under an older spec is not judged."""
    run = Run(lawbook.spec())
    run.window(decode=4, load=4.0)
    run.apply(lawbook.spec(revision=2))
    assert ("hold", "spec_changed", 4) == move(run.window(decode=4, load=9.0, spec_revision=1))
    assert ("scale-out", "demand", 8) == move(run.window(decode=4, load=9.0))


def test_changed_spec_content_is_commanded_under_a_new_revision() -> None:
    """A command is self-contained: another priority is another revision, even while the counts hold."""
    run = Run(lawbook.spec())
    run.window(decode=4, load=4.0)
    run.window(decode=4, load=6.0)
    run.apply(lawbook.spec(revision=2, priority=7))
    decision = run.window(decode=6, load=6.0)
    assert "hold" == decision.action
    assert (2, 7, decision.id) == (run.commands[-1].revision, run.commands[-1].priority, decision.command_id)


# records


def test_decision_id_is_the_hash_that_the_contract_states() -> None:
    """First 16 hex digits of sha256 of `service|end_ms|spec_revision|policy_version`."""
    run = Run(lawbook.spec())
    decision = run.window(decode=4, load=4.0)
    assert decision_id("chat", decision.at_ms, 1, decision.policy_version) == decision.id


def test_affirmed_every_window_until_converged_and_once_a_minute_after() -> None:
    """An affirmation repeats id and revision with a newer at_ms; a hold names it."""
    run = Run(lawbook.spec())
    run.window(decode=4, load=4.0)
    moved = run.window(decode=4, load=6.0)
    waiting = [run.window(decode=4, loading=2, load=6.0).command_id for _ in range(3)]
    assert [moved.id] * 3 == waiting
    settled = [run.window(decode=6, load=6.0).command_id for _ in range(8)]
    assert [None, None, None, moved.id] * 2 == settled
    assert {(moved.id, 1)} == {(command.id, command.revision) for command in run.commands}


def test_a_role_outside_the_ratio_has_its_own_count() -> None:
    """A router scales on its own signal, by the same law, beside the pair."""
    roles = lawbook.PLAIN["roles"] | {"router": {"min": 1, "max": 9, "gpus": 1}}
    signals = [*lawbook.PLAIN["signals"], {"metric": "gpu_util", "role": "router", "target": 0.5}]
    run = Run(lawbook.spec(roles=roles, signals=signals))
    run.window(decode=4, load=4.0, roles={"router": lawbook.role(2, gpu_util=0.5)})
    decision = run.window(decode=4, load=4.0, roles={"router": lawbook.role(2, gpu_util=0.9)})
    assert {"decode": 4, "prefill": 2, "router": 4} == counts(decision)
    assert ("scale-out", "demand") == (decision.action.value, decision.reason.value)


SCENES: list[Callable[[], Any]] = [
    test_raw_pending_hides_demand,
    test_guard_waits_until_its_step_has_served_a_full_window,
    test_guard_blocks_scale_in_near_its_threshold,
    test_schedule_bounds_replace_the_base,
    test_schedule_replicas_fix_the_count,
    test_rate_policies_on_the_way_in_round_down,
    test_cooldown_of_each_direction,
    test_capacity_limited_while_the_commanded_revision_is_short,
    test_soft_scale_in_observes_then_finalizes,
    test_soft_guard_restores,
    test_unadopted_instances_are_never_commanded_away,
    test_cold_start_with_nothing_running_commands_the_minimum,
    test_repair_commands_a_deficit_up_and_drains_an_excess,
    test_external_change_is_adopted_after_one_full_window_without_placement,
    test_spec_changed_holds_windows_of_an_older_revision,
    lambda: test_guard_steps(60.0, 500, ("scale-out", "guard_moderate", 11)),
    lambda: test_missing_data_fallback_after_escalate_after("max-recent", ("scale-out", "fallback", 6)),
    lambda: test_bounds_of_every_role_are_mapped_to_the_lead("decode", 7, 7),
    lambda: test_final_modes("paused", 8.0, ("hold", "paused", 4)),
    lambda: test_final_modes("suspended", 8.0, ("hold", "suspended", 4)),
]


def test_every_reason_code_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table covers the enum, and each code is the reason of some decision of the scenes above, in a use that it allows."""
    reached: dict[Reason, set[Use]] = {}
    plain = Run.give

    def watched(self: Run, event: Any) -> Any:
        effects = plain(self, event)
        if effects.decision is not None:
            action = effects.decision.action
            use = Use(action.value) if action in {Action.HOLD, Action.RESTORE, Action.FINALIZE} else Use.MOVE
            reached.setdefault(effects.decision.reason, set()).add(use)
        return effects

    monkeypatch.setattr(Run, "give", watched)
    for scene in SCENES:
        scene()
    assert set(Reason) == set(REASONS) == set(reached)
    for reason, uses in reached.items():
        assert uses <= set(REASONS[reason].uses), reason
