"""Each field of a spec that the law or a command reads does what its line in the contract says; a test a field, of its name."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Decision, Reason
from heteroscale.contracts.signals import GpuTypeSignal
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.units import instant_text
from support import lawbook
from support.lawbook import HOP_MS, SIZE_MS, START_MS, Run, counts

ROLES: dict[str, Any] = lawbook.PLAIN["roles"]
EVERY_DAY = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
GUARD = {"latency": "tbt", "quantile": "p95", "moderate": "60ms", "severe": "80ms"}
ELSEWHERE = {"window_forget", "slo_ttft", "slo_tbt", "applied_at_ms", "applied_by", "reason"}  # read by signals, reports and people


def after(load: float, *, n: int = 10, windows: int = 1, fields: dict[str, Any] | None = None, **spec: Any) -> Decision:
    """The last of some windows with `load`, of a service that ran `n` decode instances under a load of `n`."""
    run = Run(lawbook.spec(**spec))
    run.window(decode=n, load=float(n))
    for _ in range(windows):
        decision = run.window(**({"decode": n, "load": load} | (fields or {})))
    return decision


def n_of(decision: Decision) -> int:
    """The lead's count."""
    return counts(decision)["decode"]


def command(**spec: Any) -> Any:
    """The first command of a service that has to grow."""
    run = Run(lawbook.spec(**spec))
    run.window(decode=4, load=4.0)
    run.window(decode=4, load=6.0)
    return run.commands[-1]


def way(name: str, **fields: Any) -> dict[str, Any]:
    """A `behavior` with some fields of one direction."""
    return {name: fields}


def schedule(**fields: Any) -> list[dict[str, Any]]:
    """One schedule, at all times unless it says other ones. The test's windows are of Thursday 28 May 2026, from 20:27 UTC."""
    plain = {"name": "s", "timezone": "UTC", "days": EVERY_DAY, "start": "00:00", "end": "24:00", "roles": {"decode": {"min": 12}}}
    return [plain | fields]


def until_ends(run: Run, reason: str, **window: Any) -> int:
    """How many windows hold for `reason` before something else happens."""
    for held in range(100):
        if run.window(**window).reason != reason:
            return held
    raise AssertionError(f"{reason} never ends")


# who, how far


def test_service() -> None:
    """Windows of the service get decisions that bear its name."""
    assert "chat" == after(10.0).service


def test_fleet() -> None:
    """Decision and Command carry it."""
    assert ("east", "east") == (after(10.0, fleet="east").fleet, command(fleet="east").fleet)


def test_priority() -> None:
    """The command carries it."""
    assert 7 == command(priority=7).priority


def test_revision() -> None:
    """It is recorded, and a window of an older one is not judged."""
    assert 5 == after(10.0, revision=5).spec_revision
    assert Reason.SPEC_CHANGED is after(20.0, revision=5, fields={"spec_revision": 4}).reason


@pytest.mark.parametrize(("mode", "n"), [("active", 20), ("paused-in", 20), ("paused-out", 10), ("paused", 10), ("suspended", 10)])
def test_mode(mode: str, n: int) -> None:
    """Modes block a scale-out, or do not."""
    assert n == n_of(after(20.0, mode=mode))


@pytest.mark.parametrize(("hops", "n"), [(2, 20), (3, 10)])
def test_until(hops: int, n: int) -> None:
    """The mode ends at the instant itself: a window that ends then is judged under what follows."""
    assert n == n_of(after(20.0, mode="paused", until=instant_text(START_MS + hops * HOP_MS), then="active"))


@pytest.mark.parametrize(("then", "n"), [("active", 20), ("paused-out", 10)])
def test_then(then: str, n: int) -> None:
    """The mode that follows."""
    assert n == n_of(after(20.0, mode="suspended", until=instant_text(START_MS), then=then))


# roles and ratio


def test_roles_min() -> None:
    """The least of any role ends the feasible set: 4 prefill need 7 decode."""
    assert 7 == n_of(after(0.0, windows=2, roles=ROLES | {"prefill": {"min": 4, "max": 50, "gpus": 8}}))


def test_roles_max() -> None:
    """The most of any role ends it too: 6 prefill let 12 decode run."""
    assert 12 == n_of(after(20.0, roles=ROLES | {"prefill": {"min": 1, "max": 6, "gpus": 8}}))


def test_roles_gpus() -> None:
    """GPUs of an instance go into the command."""
    assert 4 == command(roles=ROLES | {"decode": {"min": 2, "max": 9, "gpus": 4}}).roles["decode"].gpus


def test_roles_gpu_types_type() -> None:
    """Types go into the command, preferred first."""
    roles = ROLES | {"decode": {"min": 2, "max": 9, "gpus": 8, "gpu_types": [{"type": "H20"}, {"type": "A"}]}}
    assert ["H20", "A"] == [choice.type for choice in command(roles=roles).roles["decode"].gpu_types]


def test_roles_gpu_types_weight() -> None:
    """Demand is divided by target and mean weight: 5 of 1.0 and 5 of 0.5 carry 7.5; a type that is not named weighs 1."""
    roles = ROLES | {"decode": {"min": 2, "max": 100, "gpus": 8, "gpu_types": [{"type": "H20"}, {"type": "L20", "weight": 0.5}]}}
    mixed = {name: codec.convert(GpuTypeSignal, {"serving": 5, "decode_tps": None, "prefill_tps": None}) for name in ("H20", "L20")}
    assert 14 == n_of(after(10.0, roles=roles, fields={"by_gpu_type": mixed}))
    other = dict.fromkeys(("H20", "B200"), mixed["H20"])
    assert 10 == n_of(after(10.0, roles=roles, fields={"by_gpu_type": other}))


@pytest.mark.parametrize("key", ["count", "gpus"])
def test_roles_parts(key: str) -> None:
    """A role made of parts has the sum of their GPUs: 1 · 8 + 2 · 4."""
    parts = {"attention": {"count": 1, "gpus": 8}, "ffn": {"count": 2, "gpus": 4}}
    decode = command(roles=ROLES | {"decode": {"min": 2, "max": 9, "parts": parts}}).roles["decode"]
    assert (16, parts["ffn"][key]) == (decode.gpus, getattr(decode.parts["ffn"], key))


def test_roles_within() -> None:
    """The level that holds one replica goes into the command."""
    assert "s2" == command(roles=ROLES | {"decode": {"min": 2, "max": 9, "gpus": 16, "within": "s2"}}).roles["decode"].within


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        ({"prefill": 1, "decode": 2}, 6),
        ({"prefill": 2, "decode": 4}, 6),
        ({"prefill": 3, "decode": 2}, 17),
        ({"prefill": 1, "decode": 3}, 4),
    ],
)
def test_ratio(ratio: dict[str, int], expected: int) -> None:
    """The others follow: ceil(11 · share / lead's share)."""
    assert expected == counts(after(11.0, ratio=ratio))["prefill"]


# window


def test_window_size() -> None:
    """A guard's step waits for a window that began after the step served: 4 hops of 60 s, 8 of 120 s."""
    for size_ms in (SIZE_MS, 2 * SIZE_MS):
        run = Run(lawbook.spec(guards=[GUARD], window={"size": f"{size_ms}ms"}))
        high = lawbook.latency(90.0)
        run.window(decode=10, load=10.0)
        assert 12 == n_of(run.window(decode=10, load=10.0, tbt_ms=high))
        held = 0
        while True:
            end_ms = START_MS + (run.at + 1) * HOP_MS
            window = lawbook.window(run.at + 1, decode=12, load=10.0, tbt_ms=high)
            run.at += 1
            decision = run.give(msgspec.structs.replace(window, start_ms=end_ms - size_ms)).decision
            assert decision is not None
            if decision.reason is not Reason.GUARD_WAITS_FOR_PENDING:
                break
            held += 1
        assert size_ms // HOP_MS == held


def test_window_hop() -> None:
    """A window that cannot be judged makes `observe` longer by a hop."""
    for hop in (15, 20):
        run = Run(lawbook.spec(window={"hop": f"{hop}s"}, behavior=way("scale_in", soft={"observe": "30s"})))
        run.window(decode=4, load=4.0)
        run.window(decode=4, load=3.0)
        assert 1 == run.window(decode=4, load=3.0).after["decode"].draining
        run.window(decode=3, draining=1, load=3.0)
        run.window(decode=3, draining=1, load=3.0, coverage=0.5)
        phase = run.state.law.tracks["decode"].soft
        assert phase is not None
        assert hop * 1_000 == phase.unjudged_ms


@pytest.mark.parametrize("key", ["interval", "allowed_lateness", "silence"])
def test_window_lag(key: str) -> None:
    """What stops is counted for a while: foreign instances are not judged on a list that is newer than a window can know."""
    judged = []
    for span in ("5s", "60s"):
        run = Run(lawbook.spec(window={"interval": "5s", "allowed_lateness": "5s", "silence": "5s"} | {key: span}), setting=lawbook.WARM)
        run.give(lawbook.placement(1, seq=1, counts={"decode": {"ready": 4}, "prefill": {"ready": 2}}))
        run.window(decode=4, load=4.0)
        run.give(lawbook.placement(1, seq=2, counts={"decode": {"ready": 3}, "prefill": {"ready": 2}}))
        judged.append(next(at for at in range(20) if run.window(decode=4, load=4.0).before["decode"].foreign))
    assert [2, 5] == judged  # the four together are 30 s, and 85 s


# signals


@pytest.mark.parametrize("metric", ["decode_tps", "prefill_tps", "prefill_missed_tps"])
def test_signals_metric(metric: str) -> None:
    """Each rate moves the count by the same law; the others do not (means: `test_signals_target`)."""
    signals = [{"metric": metric, "role": "decode", "target": 1_000.0}]
    quiet = {"load": 10.0, "prefill_tps": 10_000.0, "prefill_missed_tps": 10_000.0}
    loud = {("load" if metric == "decode_tps" else metric): 12.0 if metric == "decode_tps" else 12_000.0}
    assert 12 == n_of(after(10.0, signals=signals, fields=quiet | loud))
    assert 10 == n_of(after(10.0, signals=signals, fields=quiet))


def test_signals_role() -> None:
    """The first signal's role leads, and its own role's rate counts."""
    signals = [{"metric": "decode_tps", "role": "prefill", "target": 1_000.0}]
    roles = {"prefill": lawbook.role(5, decode_tps=7_000.0)}
    assert {"prefill": 7, "decode": 14} == counts(after(99.0, signals=signals, fields={"roles": roles}))


@pytest.mark.parametrize(("target", "n"), [(0.5, 16), (0.8, 10)])
def test_signals_target(target: float, n: int) -> None:
    """A mean times what serves, over the target: 0.8 · 10 / 0.5."""
    assert n == n_of(after(1.0, signals=[{"metric": "gpu_util", "role": "decode", "target": target}], fields={"gpu_util": 0.8}))


@pytest.mark.parametrize(("least", "reason"), [(0.8, "demand"), (0.81, "missing_data")])
def test_signals_min_coverage(least: float, reason: str) -> None:
    """Below it there is no scale-in; at it there is, with what is unseen added."""
    signals = [{"metric": "decode_tps", "role": "decode", "target": 1_000.0, "min_coverage": least}]
    decision = after(3.0, windows=2, signals=signals, fields={"coverage": 0.8})
    assert (reason, 5 if reason == "demand" else 10) == (decision.reason.value, n_of(decision))


# guards


def guarded(guard: dict[str, Any], **fields: Any) -> int:
    """The count after one window under one guard."""
    return n_of(after(10.0, guards=[guard], fields=fields))


def test_guards_latency() -> None:
    """The latency that is watched."""
    assert (11, 10) == (guarded(GUARD, tbt_ms=lawbook.latency(70.0)), guarded(GUARD | {"latency": "ttft"}, tbt_ms=lawbook.latency(70.0)))


def test_guards_quantile() -> None:
    """The quantile that is watched."""
    seen = msgspec.structs.replace(lawbook.latency(10.0), p99=70.0)
    assert (10, 11) == (guarded(GUARD, tbt_ms=seen), guarded(GUARD | {"quantile": "p99"}, tbt_ms=seen))


def test_guards_moderate() -> None:
    """At or above."""
    assert (11, 10) == tuple(guarded(GUARD | {"moderate": at}, tbt_ms=lawbook.latency(60.0)) for at in ("60ms", "61ms"))


def test_guards_severe() -> None:
    """At or above."""
    assert (12, 11) == tuple(guarded(GUARD | {"severe": at}, tbt_ms=lawbook.latency(80.0)) for at in ("80ms", "81ms"))


def test_guards_moderate_step() -> None:
    """By so much of what serves, at least one instance."""
    assert (13, 11) == tuple(guarded(GUARD | {"moderate_step": step}, tbt_ms=lawbook.latency(60.0)) for step in ("30%", "1%"))


def test_guards_severe_step() -> None:
    """By so much of what serves."""
    assert 15 == guarded(GUARD | {"severe_step": "50%"}, tbt_ms=lawbook.latency(80.0))


def test_guards_role() -> None:
    """Only that role's latency; without one the worst role's."""
    slow = {"roles": {"prefill": lawbook.role(5, tbt_ms=lawbook.latency(90.0))}}
    assert [12, 10, 12] == [guarded(GUARD | {"role": role}, **slow) for role in (None, "decode", "prefill")]


# behavior


def test_behavior_scale_out_tolerance() -> None:
    """Above n(1 + tolerance) it grows, at it it does not."""
    assert [10, 13] == [n_of(after(load, behavior=way("scale_out", tolerance="20%"))) for load in (12.0, 12.0001)]


def test_behavior_scale_out_stabilization() -> None:
    """The lowest recommendation of the window, the adopted count first among them."""
    run = Run(lawbook.spec(behavior=way("scale_out", stabilization="60s")))
    run.window(decode=10, load=10.0)
    assert 3 == until_ends(run, "stabilizing", decode=10, load=15.0)
    assert 15 == run.n()


def test_behavior_scale_out_cooldown() -> None:
    """After a scale-out the next waits for it, and so does a scale-in; an alarm does not."""
    behavior = {"scale_out": {"cooldown": "60s"}, "scale_in": {"stabilization": "15s"}}
    for load in (20.0, 5.0):
        run = Run(lawbook.spec(behavior=behavior))
        run.window(decode=10, load=10.0)
        run.window(decode=10, load=12.0)
        assert 3 == until_ends(run, "cooldown", decode=12, load=load)
    run = Run(lawbook.spec(behavior=behavior, guards=[GUARD]))
    run.window(decode=10, load=12.0)
    assert 14 == n_of(run.window(decode=12, load=12.0, tbt_ms=lawbook.latency(60.0)))


@pytest.mark.parametrize(("kind", "value", "period", "n"), [("percent", 25, "60s", 13), ("pods", 2, "60s", 12), ("pods", 2, "15s", 14)])
def test_behavior_scale_out_policies(kind: str, value: int, period: str, n: int) -> None:
    """`type`, `value` and `period`: so much above the count at the period's start, rounded up; two windows of a larger demand."""
    policies = [{"type": kind, "value": value, "period": period}]
    assert n == n_of(after(40.0, windows=2, behavior=way("scale_out", policies=policies)))


@pytest.mark.parametrize(("select", "n"), [("max", 14), ("min", 11), ("disabled", 10)])
def test_behavior_scale_out_select(select: str, n: int) -> None:
    """Which policy counts."""
    policies = [{"type": "pods", "value": value, "period": "60s"} for value in (4, 1)]
    assert n == n_of(after(40.0, behavior=way("scale_out", policies=policies, select=select)))


def test_behavior_scale_in_tolerance() -> None:
    """Below n(1 - tolerance) it shrinks, at it it does not."""
    assert [10, 8] == [n_of(after(load, windows=2, behavior=way("scale_in", tolerance="20%"))) for load in (8.0, 7.9999)]


def test_behavior_scale_in_stabilization() -> None:
    """The highest recommendation of the window, the adopted count first among them."""
    run = Run(lawbook.spec(behavior=way("scale_in", stabilization="120s")))
    assert 8 == until_ends(run, "stabilizing", decode=10, load=5.0)
    assert 5 == run.n()


def test_behavior_scale_in_cooldown() -> None:
    """After a scale-in the next waits for it; a scale-out does not."""
    run = Run(lawbook.spec(behavior=way("scale_in", stabilization="15s", cooldown="90s")))
    run.window(decode=10, load=10.0)
    run.window(decode=10, load=8.0)
    assert 8 == run.n()
    assert 5 == until_ends(run, "cooldown", decode=8, load=4.0)
    run.window(decode=4, load=6.0)
    assert 6 == run.n()


@pytest.mark.parametrize(("kind", "value", "period", "n"), [("percent", 25, "60s", 8), ("pods", 1, "60s", 9), ("pods", 1, "15s", 8)])
def test_behavior_scale_in_policies(kind: str, value: int, period: str, n: int) -> None:
    """As on the way out, rounded down: 25 % of 10 are 2."""
    policies = [{"type": kind, "value": value, "period": period}]
    assert n == n_of(after(3.0, windows=3, behavior=way("scale_in", policies=policies)))


@pytest.mark.parametrize(("select", "n"), [("max", 6), ("min", 9), ("disabled", 10)])
def test_behavior_scale_in_select(select: str, n: int) -> None:
    """Which policy counts: `max` allows the largest change."""
    policies = [{"type": "pods", "value": value, "period": "60s"} for value in (4, 1)]
    assert n == n_of(after(3.0, windows=2, behavior=way("scale_in", policies=policies, select=select)))


def test_behavior_scale_in_soft_observe() -> None:
    """First out of routing, then, from the next window on, watched for so long; null stops at once."""
    for observe, hops in (("30s", 2), ("90s", 6)):
        run = Run(lawbook.spec(behavior=way("scale_in", soft={"observe": observe})))
        run.window(decode=4, load=4.0)
        run.window(decode=4, load=3.0)
        assert (3, 1) == tuple(msgspec.structs.astuple(run.window(decode=4, load=3.0).after["decode"]))
        assert hops == until_ends(run, "observing", decode=3, draining=1, load=3.0)
        assert Reason.OBSERVED is run.decisions[-1].reason
    assert 0 == after(3.0, windows=2, behavior=way("scale_in", soft=None)).after["decode"].draining


@pytest.mark.parametrize("at", ["first", "later"])
def test_behavior_scale_in_soft_unjudged_windows_lengthen_it(at: str) -> None:
    """A window below `min_coverage` is no judgement, the one that observing starts with no more than another."""
    run = Run(lawbook.spec(behavior=way("scale_in", soft={"observe": "30s"})))
    for load in (4.0, 3.0, 3.0):
        run.window(decode=4, load=load)
    seen = [{"coverage": 0.5}, {}, {}] if at == "first" else [{}, {"coverage": 0.5}, {}]
    reasons = [run.window(decode=3, draining=1, load=3.0, **fields).action.value for fields in (*seen, {})]
    assert ["hold", "hold", "hold", "finalize"] == reasons


def test_behavior_scale_in_soft_to_nothing_ends() -> None:
    """A service that goes to 0 has no coverage left to be judged by, and is finalized all the same."""
    roles = {name: role | {"min": 0} for name, role in ROLES.items()}
    run = Run(lawbook.spec(roles=roles, behavior=way("scale_in", soft={"observe": "30s"})))
    for load in (2.0, 0.0, 0.0):
        run.window(decode=2, load=load)
    assert (0, 2) == tuple(msgspec.structs.astuple(run.decisions[-1].after["decode"]))
    assert 2 == until_ends(run, "observing", decode=0, draining=2, load=0.0)
    assert (Reason.OBSERVED, 0) == (run.decisions[-1].reason, run.decisions[-1].after["decode"].draining)


def test_behavior_pending_timeout() -> None:
    """What does not serve by then no longer counts as capacity; placement gets the same deadline."""
    run = Run(lawbook.spec(behavior={"pending": {"timeout": "60s"}}))
    run.window(decode=4, load=4.0)
    run.window(decode=4, load=8.0)
    pending = [run.window(decode=4, loading=4, load=8.0).before["decode"].pending for _ in range(6)]
    assert [4, 4, 4, 4, 0, 0] == pending
    assert 60_000 == run.commands[-1].start_deadline_ms


# missing data, schedules


@pytest.mark.parametrize(("fallback", "n"), [("hold", 4), ("schedule", 12), ("max-recent", 6)])
def test_missing_data_fallback(fallback: str, n: int) -> None:
    """Nothing serves and nothing is heard: stay; what the active schedule fixes; the highest of 30 minutes."""
    run = Run(lawbook.spec(missing_data={"fallback": fallback, "escalate_after": "15s"}))
    run.window(decode=6, load=6.0)
    for _ in range(2):
        run.window(decode=6, load=3.6)
    assert 4 == run.n()
    if fallback == "schedule":
        fixed = schedule(roles=None, replicas={"prefill": 6, "decode": 12})
        run.apply(lawbook.spec(missing_data={"fallback": fallback, "escalate_after": "0s"}, schedules=fixed, revision=2))
    for _ in range(2):
        decision = run.window(decode=0, silent=4, load=None)
    assert n == n_of(decision)


def test_missing_data_escalate_after() -> None:
    """Not before so long."""
    run = Run(lawbook.spec(missing_data={"fallback": "max-recent", "escalate_after": "90s"}))
    run.window(decode=6, load=6.0)
    for _ in range(2):
        run.window(decode=6, load=3.6)
    assert 6 == until_ends(run, "missing_data", decode=0, silent=4, load=None)
    assert 6 == run.n()


def test_schedules_name() -> None:
    """The stages name it."""
    assert "schedule office" in after(10.0, schedules=schedule(name="office")).stages[3].detail


@pytest.mark.parametrize(("zone", "n"), [("UTC", 12), ("Asia/Shanghai", 10)])
def test_schedules_timezone(zone: str, n: int) -> None:
    """20:27 in UTC is 04:27 in Shanghai."""
    assert n == n_of(after(10.0, schedules=schedule(timezone=zone, start="20:00", end="21:00")))


@pytest.mark.parametrize(("day", "n"), [("thu", 12), ("fri", 10)])
def test_schedules_days(day: str, n: int) -> None:
    """Only on its days."""
    assert n == n_of(after(10.0, schedules=schedule(days=[day])))


@pytest.mark.parametrize(("start", "n"), [("20:27", 12), ("20:28", 10)])
def test_schedules_start(start: str, n: int) -> None:
    """From its first minute."""
    assert n == n_of(after(10.0, schedules=schedule(start=start)))


@pytest.mark.parametrize(("end", "n"), [("20:28", 12), ("20:27", 10)])
def test_schedules_end(end: str, n: int) -> None:
    """Up to, not including, its end."""
    assert n == n_of(after(10.0, schedules=schedule(end=end)))


def test_schedules_roles_min() -> None:
    """Replaces the base, and is reached at once."""
    assert 30 == n_of(after(10.0, schedules=schedule(roles={"decode": {"min": 30}}), behavior=way("scale_out", cooldown="1h")))


def test_schedules_roles_max() -> None:
    """Replaces the base: 3 prefill let 6 decode run."""
    assert 6 == n_of(after(10.0, schedules=schedule(roles={"prefill": {"max": 3}})))


def test_schedules_replicas() -> None:
    """Fixed counts, whatever is asked."""
    assert {"prefill": 4, "decode": 8} == counts(after(40.0, schedules=schedule(roles=None, replicas={"prefill": 4, "decode": 8})))


# placement


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("affinity_level", {"affinity": {"level": "cluster"}}, "cluster"),
        ("affinity_mode", {"affinity": {"mode": "preferred"}}, "preferred"),
        ("prefer", {"prefer": "s2"}, "s2"),
        ("wait", {"wait": "30s"}, 30_000),
        ("partial", {"partial": "none"}, "none"),
        ("spread", {"spread": "node"}, "node"),
    ],
)
def test_placement(name: str, field: dict[str, Any], value: object) -> None:
    """What the spec says of placement goes into the command."""
    made = command(placement=field)
    read = {"affinity_level": "affinity.level", "affinity_mode": "affinity.mode", "wait": "wait_ms"}.get(name, name)
    for step in read.split("."):
        made = getattr(made, step)
    assert value == made


def test_placement_none() -> None:
    """Without a placement service the affinity is null: placement leaves the command alone."""
    assert command(placement="none").affinity is None


def test_ready_ratio_tolerance() -> None:
    """Goes into the command."""
    assert 0.5 == command(ready_ratio={"tolerance": "50%"}).ready_ratio.tolerance.fraction


# whole


def fields_of(kind: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of all fields below a type, joined by underscores."""
    structs = [one for one in _parts(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    if not structs:
        yield "_".join(path)
    for struct in structs:
        hints = typing.get_type_hints(struct)
        for name in struct.__struct_fields__:
            yield from fields_of(hints[name], (*path, name))


def _parts(kind: Any) -> Iterator[Any]:
    yield kind
    for argument in typing.get_args(kind):
        yield from _parts(argument)


SHARED = {  # fields whose test has another's name: one test over several
    "roles_parts": ("count", "gpus"),
    "window_lag": ("interval", "allowed_lateness", "silence"),
    "behavior_scale_out_policies": ("type", "value", "period"),
    "behavior_scale_in_policies": ("type", "value", "period"),
    "placement": ("affinity_level", "affinity_mode", "prefer", "wait", "partial", "spread"),
}


def test_every_field_has_its_test() -> None:
    """A field that is added without a test of its name is noticed."""
    named = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(SHARED) <= named
    shared = {f"{test.removesuffix('_lag')}_{field}" for test, fields in SHARED.items() for field in fields}
    assert set() == set(fields_of(ServiceSpec)) - named - shared - ELSEWHERE
