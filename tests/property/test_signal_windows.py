"""SAME-IN-SAME-OUT and exactness of the windows, over made-up telemetry."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from heteroscale.contracts import codec
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.signals.aggregator import PartitionAggregator
from support import signals_oracle
from support.signals_oracle import Rules

ORIGIN = 1_732_000_000_000
LAYOUTS = {"fine": [0.1, 0.25, 0.5, 1.0], "coarse": [0.2, 1.0]}
Record = dict[str, Any]


def spec_of(rules: Rules) -> ServiceSpec:
    """A spec that states `rules`."""
    document = {
        "service": "b",
        "roles": {role: {"min": 1, "max": 2, "gpus": 1} for role in rules.roles},
        "ratio": dict.fromkeys(rules.roles, 1),
        "signals": [],
        "revision": 3,
        "applied_at_ms": 0,
        "window": {
            "size": f"{rules.size}ms",
            "hop": f"{rules.hop}ms",
            "interval": f"{rules.interval}ms",
            "allowed_lateness": f"{rules.lateness}ms",
            "silence": f"{rules.silence}ms",
            "forget": f"{rules.forget}ms",
        },
    }
    return codec.convert(ServiceSpec, document)


RULES_OF_B = Rules(
    size=20_000, hop=10_000, interval=3_000, lateness=2_000, silence=6_000, forget=40_000, roles=("decode", "prefill"), has_spec=True
)


@st.composite
def instance_series(draw: st.DrawFn, name: str) -> list[Record]:
    """One instance's samples in time order: steady or silent for a while, restarting, appearing late, with or without figures."""
    role = draw(st.sampled_from(["decode", "prefill"]))
    layout = draw(st.sampled_from(["fine", "coarse", None]))
    counters = draw(
        st.sampled_from([("generation_tokens",), ("prompt_tokens", "cached_prompt_tokens"), ("generation_tokens", "prompt_tokens")])
    )
    at = ORIGIN + draw(st.integers(0, 30_000))
    started = draw(st.sampled_from([None, at - 3_000, at - 900_000]))
    values = {counter: draw(st.integers(0, 10**6)) for counter in counters}
    buckets = [draw(st.integers(0, 50)) for _ in range(len(LAYOUTS[layout]) + 1)] if layout else []
    state = draw(st.sampled_from(["loading", "serving", "serving"]))
    samples: list[Record] = []
    for _ in range(draw(st.integers(1, 25))):
        event = draw(st.sampled_from(["step"] * 12 + ["gap", "long gap", "drop", "restart", "state", "null"]))
        at += draw(st.integers(1, 9)) * 1_000 + draw(st.sampled_from([0, 0, 1, 500]))
        at += {"gap": 17_000, "long gap": 55_000}.get(event, 0)
        if event == "drop":
            values[counters[0]] = draw(st.integers(0, 100))
            buckets = [0] * len(buckets)
        if event == "restart" and started is not None:
            started = at - 500
            values = dict.fromkeys(values, 0)
        if event == "state":
            state = draw(st.sampled_from(["serving", "draining", "stopping"]))
        for counter in counters:
            values[counter] += draw(st.integers(0, 30_000))
        buckets = [count + draw(st.integers(0, 9)) for count in buckets]
        sample: Record = {"instance": name, "role": role, "state": state, "at_ms": at, "gpus": draw(st.sampled_from([1, 8]))}
        sample |= values
        if event == "null":
            sample[counters[-1]] = None
        if started is not None:
            sample["started_at_ms"] = started
        if draw(st.booleans()):
            sample |= {
                "kv_usage": draw(st.sampled_from([0.0, 0.25, 0.9])),
                "gpu_util": draw(st.sampled_from([0.5, 1.0])),
                "running": draw(st.integers(0, 9)),
            }
        if layout:
            sample["ttft"] = {"layout": layout, "counts": list(buckets), "sum_s": None}
        samples.append(sample)
    return samples


@st.composite
def telemetry(draw: st.DrawFn) -> list[Record]:
    """Records of two services on one partition: in time order but for some that are delayed or doubled, with a tick a few seconds."""
    timed: list[tuple[int, int, Record]] = []
    for service in ("a", "b"):
        for index in range(draw(st.integers(0, 3))):
            for sample in draw(instance_series(f"{service}{index}")):
                for arrival in [0, draw(st.sampled_from([0] * 8 + [2_500, 9_000, 40_000]))]:
                    if arrival or draw(st.sampled_from([True] * 9 + [False])):
                        record = {"kind": "samples", "service": service, "layouts": LAYOUTS, "samples": [sample]}
                        timed.append((sample["at_ms"] + arrival, 0, record))
                        break
    every = draw(st.sampled_from([1_000, 3_000, 7_000]))
    last = max((at for at, _, _ in timed), default=ORIGIN)
    timed += [(at, 1, {"kind": "tick", "at_ms": at}) for at in range(ORIGIN, last + 90_000, every)]
    doubled = [timed[i] for i in draw(st.lists(st.integers(0, len(timed) - 1), max_size=5))]
    timed += [(at + 1_000, kind, record) for at, kind, record in doubled]
    timed.sort(key=lambda item: (item[0], item[1]))
    return [record for _, _, record in timed]


def run(records: list[Record], first: int = 0, newest: dict[str, int] | None = None) -> tuple[list[SignalWindow], PartitionAggregator]:
    """The core over records from offset `first` on."""
    aggregator = PartitionAggregator(0, newest)
    aggregator.learn("b", spec_of(RULES_OF_B), 0)
    closed: list[SignalWindow] = []
    for offset, record in enumerate(records):
        if offset >= first:
            outcome = aggregator.handle(offset, json.dumps(record).encode())
            assert [] == outcome.refused
            closed += outcome.windows
    return closed, aggregator


def _agree(expected: Any, actual: Any, where: str) -> None:
    if isinstance(expected, float) or isinstance(actual, float):
        assert pytest.approx(expected, abs=2e-6, rel=1e-9) == actual, where
    else:
        assert expected == actual, where


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(records=telemetry())
def test_core_agrees_with_the_slow_oracle(records: list[Record]) -> None:
    """Every window, count, rate, mean and quantile is what plain loops over all samples give."""
    expected = signals_oracle.windows(records, {"b": RULES_OF_B})
    actual, _ = run(records)
    assert [(w["service"], w["end_ms"], w["late"]) for w in expected] == [(w.service, w.end_ms, w.late_samples) for w in actual]
    for wanted, window in zip(expected, actual, strict=True):
        assert list(wanted["roles"]) == list(window.roles), window
        for role, figures in wanted["roles"].items():
            found = codec.to_document(window.roles[role])
            for name, value in figures.items():
                if name == "ttft_ms" and value is not None:
                    assert found[name] is not None, (window.end_ms, role, name)
                    assert value["approximate"] == found[name]["approximate"]
                    assert abs(value["count"] - found[name]["count"]) <= 0.500001
                    continue
                _agree(value, found[name], f"{window.service} {window.end_ms - ORIGIN} {role} {name}")


@st.composite
def with_wrong_ticks(draw: st.DrawFn, records: list[Record]) -> list[Record]:
    """The same with up to three ticks of a clock that is minutes or hours ahead, each alone or confirmed by another."""
    disturbed = list(records)
    for at in sorted(draw(st.lists(st.integers(0, len(records) - 1), max_size=3)), reverse=True):
        if records[at]["kind"] == "tick":
            ahead = draw(st.sampled_from([500_000, 700_000, 5_000_000]))
            wrong = {"kind": "tick", "at_ms": records[at]["at_ms"] + ahead}
            disturbed[at:at] = [wrong] * draw(st.sampled_from([1, 1, 2]))
    return disturbed


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(records=telemetry().flatmap(with_wrong_ticks), data=st.data())
def test_any_restart_points_give_the_same_windows(records: list[Record], data: st.DataObject) -> None:
    """SAME-IN-SAME-OUT: stopped anywhere, again and again, each time an empty aggregator from the safe offset: the same bytes."""
    whole = [codec.encode(window) for window in run(records)[0]]
    union: list[SignalWindow] = []
    begin = 0
    for stop in [*sorted(data.draw(st.lists(st.integers(0, len(records)), min_size=1, max_size=3), label="stops")), len(records)]:
        closed, aggregator = run(records[:stop], begin, {window.service: window.end_ms for window in union})
        union += closed
        begin = max(begin, aggregator.safe_offset() or 0)
    assert whole == [codec.encode(window) for window in union]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(records=telemetry(), data=st.data())
def test_any_batching_gives_the_same_windows(records: list[Record], data: st.DataObject) -> None:
    """SAME-IN-SAME-OUT: samples between two ticks may be split over records in any way.

    The bytes are the same, `inputs` too once its offsets are read as what they are: places in a log that now has fewer records.
    """
    batched: list[Record] = []
    moved: list[int] = []  # the record that holds what each of `records` held
    for record in records:
        last = batched[-1] if batched else {"kind": "tick"}
        if record["kind"] == last["kind"] == "samples" and last["service"] == record["service"] and data.draw(st.booleans()):
            batched[-1] = last | {"samples": [*last["samples"], *record["samples"]]}
        else:
            batched.append(record)
        moved.append(len(batched) - 1)

    def elsewhere(window: SignalWindow) -> SignalWindow:
        assert window.inputs is not None
        first, last = window.inputs.first_offset, moved[window.inputs.last_offset]
        return replace(window, inputs=replace(window.inputs, first_offset=None if first is None else moved[first], last_offset=last))

    assert [codec.encode(elsewhere(window)) for window in run(records)[0]] == [codec.encode(window) for window in run(batched)[0]]
