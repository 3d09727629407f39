"""Every rule of specs: what breaks it is refused, with the field, the value and the cure in the message."""

# ruff: noqa: E501 (one rule a line reads as the table it is)

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from heteroscale.contracts import codec
from heteroscale.contracts.spec import GpuChoice, Metric, PlacementSpec, ServiceSpec, SignalSpec
from heteroscale.contracts.units import Duration, Instant, Percent
from heteroscale.decision.specs import validation
from heteroscale.decision.specs.advice import advise
from heteroscale.decision.specs.parsing import parse_spec
from heteroscale.decision.specs.problems import SpecInvalid, path_text

Mutation = Callable[[dict[str, Any]], object]

GOOD = (Path(__file__).parents[2] / "support" / "good_spec.yaml").read_text("utf-8")


def good() -> dict[str, Any]:
    """A fresh copy of a spec that uses most fields and makes sense."""
    document: dict[str, Any] = copy.deepcopy(yaml.safe_load(GOOD))
    return document


def put(*path: str | int, value: object) -> Mutation:
    """Set the value at a path."""

    def mutate(document: dict[str, Any]) -> None:
        at: Any = document
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value

    return mutate


def drop(*path: str | int) -> Mutation:
    """Remove the key at a path."""

    def mutate(document: dict[str, Any]) -> None:
        at: Any = document
        for step in path[:-1]:
            at = at[step]
        del at[path[-1]]

    return mutate


def schedule(**changes: object) -> Mutation:
    """One valid schedule with some keys changed, in place of all."""
    whole = {
        "name": "office",
        "timezone": "UTC",
        "days": ["mon"],
        "start": "09:00",
        "end": "18:00",
        "roles": {"decode": {"min": 6}},
    }
    kept = {key: value for key, value in {**whole, **changes}.items() if value is not ...}
    return put("schedules", value=[kept])


def schedules(*changes: dict[str, object]) -> Mutation:
    """Several schedules."""
    whole = {"name": "a", "timezone": "UTC", "days": ["mon"], "start": "09:00", "end": "18:00", "roles": {"decode": {"min": 6}}}
    return put("schedules", value=[{**whole, **change} for change in changes])


# fmt: off
CASES: list[tuple[str, Mutation, str, str, str]] = [  # name, mutation, field, what it says of the value, cure
    ("unknown_key_at_top", put("colour", value=1), "colour", "unknown key", "there is"),
    ("misspelt_key_at_top", put("guard", value=[]), "guard", "unknown key", "did you mean guards?"),
    ("misspelt_key_deep", put("roles", "decode", "gpu", value=8), "roles.decode.gpu", "unknown key", "did you mean gpus?"),
    ("camel_case_key", put("roles", "decode", "minReplicas", value=8), "roles.decode.minReplicas", "unknown key", "did you mean min?"),
    ("key_of_another_section", put("cooldown", value="5s"), "cooldown", "unknown key", "behavior.scale_in"),
    ("key_in_a_list", put("guards", 0, "quantil", value="p95"), "guards[0].quantil", "unknown key", "did you mean quantile?"),
    ("service_missing", drop("service"), "service", "is missing", "service: chat-70b"),
    ("service_empty", put("service", value=""), "service", "is empty", "chat-70b"),
    ("service_with_hash", put("service", value="chat#1"), "service", "'chat#1'", "write chat-1"),
    ("service_a_number", put("service", value=70), "service", "70 is not text", '"70"'),
    ("roles_missing", drop("roles"), "roles", "is missing", "roles: {prefill:"),
    ("roles_empty", put("roles", value={}), "roles", "is empty", "{prefill:"),
    ("roles_a_list", put("roles", value=["decode"]), "roles", "a list is not a mapping", "{name: …}"),
    ("role_empty", put("roles", "decode", value=None), "roles.decode", "is empty", "min: a number"),
    ("signals_missing", drop("signals"), "signals", "is missing", "metric: decode_tps"),
    ("signals_empty", put("signals", value=[]), "signals", "is empty", "metric: none"),
    ("signals_a_mapping", put("signals", value={"metric": "none"}), "signals", "is not a list", "[…]"),
    ("mode_unknown", put("mode", value="activ"), "mode", "'activ'", "did you mean active?"),
    ("until_without_then", put("until", value="2026-12-01T00:00Z"), "then", "until 2026-12-01T00:00Z", "then: active"),
    ("then_without_until", put("then", value="active"), "until", "then 'active'", "until: 2026-12-01T00:00Z"),
    ("until_without_zone", put("until", value="2026-12-01T00:00"), "until", "'2026-12-01T00:00'", "2026-12-01T00:00Z"),
    ("priority_text", put("priority", value="high"), "priority", "'high' is not a whole number", "such as 2"),
    ("min_above_max", put("roles", "decode", "min", value=40), "roles.decode.min", "40 is above max 32", "max: 40"),
    ("min_negative", put("roles", "decode", "min", value=-1), "roles.decode.min", "-1 is negative", "0 or more"),
    ("min_missing", drop("roles", "decode", "min"), "roles.decode.min", "is missing", "min: a number"),
    ("min_a_fraction", put("roles", "decode", "min", value=4.5), "roles.decode.min", "4.5 is not a whole number", "write 5"),
    ("max_in_quotes", put("roles", "decode", "max", value="32"), "roles.decode.max", "'32'", "32 without quotes"),
    ("gpus_missing", drop("roles", "decode", "gpus"), "roles.decode.gpus", "is missing", "gpus: 8"),
    ("gpus_zero", put("roles", "decode", "gpus", value=0), "roles.decode.gpus", "0 is not possible", "1 or more"),
    ("gpus_not_the_parts", put("roles", "decode", "parts", value={"ffn": {"count": 2, "gpus": 8}}), "roles.decode.gpus", "16", "gpus: 16"),
    ("part_without_gpus", put("roles", "decode", "parts", value={"ffn": {"count": 2, "gpus": 0}}), "parts.ffn.gpus", "0", "1 or more"),
    ("gpu_type_twice", put("roles", "decode", "gpu_types", value=["H20", "H20"]), "gpu_types[1].type", "'H20'", "keep one"),
    ("weight_zero", put("roles", "prefill", "gpu_types", 1, "weight", value=0), "gpu_types[1].weight", "0 is not above 0", "such as 0.5"),
    ("ratio_missing", drop("ratio"), "ratio", "is missing", "ratio: {prefill: 1, decode: 2}"),
    ("ratio_empty", put("ratio", value={}), "ratio", "is empty", "decode: 1, prefill: 1"),
    ("ratio_zero", put("ratio", "prefill", value=0), "ratio.prefill", "0 is not possible", "1 or more"),
    ("ratio_float", put("ratio", "decode", value=2.5), "ratio.decode", "2.5 is not a whole number", "write 3"),
    ("ratio_unknown_role", put("ratio", value={"prefil": 1, "decode": 2}), "ratio.prefil", "no such role", "did you mean prefill?"),
    ("ratio_infeasible", put("roles", "prefill", value={"min": 1, "max": 1, "gpus": 8}), "ratio", "roles.decode.min 4", "prefill max: 2"),
    ("ratio_infeasible_above", put("roles", "prefill", "min", value=17), "roles.prefill.min", "17 is above max 16", "max: 17"),
    ("hop_above_size", put("window", "hop", value="90s"), "window.hop", "90s is above the window's size 60s", "hop: 60s or less"),
    ("hop_as_it_was_written", put("window", "hop", value="120s"), "window.hop", "120s is above the window's size 60s", "hop: 60s or less"),
    ("hop_does_not_divide", put("window", "hop", value="7s"), "window.hop", "7s does not divide", "write hop: 6s"),
    ("hop_zero", put("window", "hop", value="0s"), "window.hop", "0s is not possible", "such as 15s"),
    ("duration_without_unit", put("window", "size", value=60), "window.size", "60 has no unit", "write 60s"),
    ("duration_strange", put("window", "size", value="1 minute"), "window.size", "'1 minute' is not a duration", "60s"),
    ("duration_negative", put("window", "size", value="-60s"), "window.size", "'-60s' is negative", "write 60s"),
    ("percent_as_fraction", put("behavior", "scale_in", "tolerance", value=0.15), "behavior.scale_in.tolerance", "0.15", "write 15%"),
    ("percent_without_sign", put("behavior", "scale_in", "tolerance", value=15), "behavior.scale_in.tolerance", "15", "write 15%"),
    ("target_missing", drop("signals", 0, "target"), "signals[0].target", "is missing", "target: 4200"),
    ("target_zero", put("signals", 0, "target", value=0), "signals[0].target", "0 is not above 0", "tokens/s"),
    ("target_text", put("signals", 0, "target", value="4200"), "signals[0].target", "'4200' is not a number", "4200 without quotes"),
    ("target_nan", put("signals", 0, "target", value=float("nan")), "signals[0].target", "nan is not a number", "a number"),
    ("target_not_a_fraction", put("signals", value=[{"metric": "kv_usage", "role": "decode", "target": 70}]), "signals[0].target", "70", "0.7"),
    ("metric_unknown", put("signals", 0, "metric", value="decode_tp"), "signals[0].metric", "'decode_tp'", "did you mean decode_tps?"),
    ("signal_role_unknown", put("signals", 0, "role", value="decoder"), "signals[0].role", "'decoder'", "did you mean decode?"),
    ("signal_role_missing", put("signals", value=[{"metric": "gpu_util", "target": 0.7}]), "signals[0].role", "is missing", "role: decode"),
    ("signal_twice", lambda d: d["signals"].append(d["signals"][0]), "signals[1]", "repeats signals[0]", "keep one"),
    ("coverage_above_one", put("signals", 0, "min_coverage", value=80), "signals[0].min_coverage", "80", "write 0.8"),
    ("target_of_none", put("signals", value=[{"metric": "none", "role": "decode", "target": 1}]), "signals[0].target", "1 does not apply", "leave it out"),
    ("coverage_of_none", put("signals", value=[{"metric": "none", "min_coverage": 0.5}]), "signals[0].min_coverage", "does not apply", "leave it out"),
    ("moderate_above_severe", put("guards", 0, "severe", value="50ms"), "guards[0].moderate", "60ms is not below severe 50ms", "severe: 90ms"),
    ("moderate_equals_severe", put("guards", 0, "severe", value="60ms"), "guards[0].moderate", "60ms is not below severe 60ms", "severe: 90ms"),
    ("guard_latency_unknown", put("guards", 0, "latency", value="tpot"), "guards[0].latency", "'tpot'", "write one of tbt, ttft"),
    ("guard_role_unknown", put("guards", 0, "role", value="decod"), "guards[0].role", "'decod'", "did you mean decode?"),
    ("guard_step_zero", put("guards", 0, "moderate_step", value="0%"), "guards[0].moderate_step", "0% adds nothing", "such as 10%"),
    ("stabilization_below_hop", put("behavior", "scale_in", "stabilization", value="10s"), "behavior.scale_in.stabilization", "10s", "15s or more"),
    ("policy_allows_nothing", put("behavior", "scale_out", "policies", 0, "value", value=0), "policies[0].value", "0", "1 or more"),
    ("soft_none", put("behavior", "scale_in", "soft", value="none"), "behavior.scale_in.soft", "'none'", "write null"),
    ("zone_unknown", schedule(timezone="Asia/Shangai"), "schedules[0].timezone", "'Asia/Shangai'", "did you mean Asia/Shanghai?"),
    ("zone_missing", schedule(timezone=...), "schedules[0].timezone", "is missing", "timezone:"),
    ("zones_mixed", schedules({}, {"name": "b", "days": ["tue"], "timezone": "Europe/Berlin"}), "schedules[1].timezone", "'Europe/Berlin'", "such as UTC"),
    ("days_missing", schedule(days=...), "schedules[0].days", "is missing", "days: ["),
    ("days_empty", schedule(days=[]), "schedules[0].days", "is empty", "[mon, tue"),
    ("day_unknown", schedule(days=["monday"]), "schedules[0].days[0]", "'monday'", "did you mean mon?"),
    ("time_unquoted", schedule(end=1080), "schedules[0].end", "1080 is a time that YAML read", '"18:00"'),
    ("time_unquoted_early", schedule(start=540), "schedules[0].start", "540 is a time that YAML read", '"09:00"'),
    ("time_impossible", schedule(end="25:00"), "schedules[0].end", "'25:00'", "write it as"),
    ("time_short", schedule(start="9:00"), "schedules[0].start", "'9:00'", '"09:00"'),
    ("times_equal", schedule(end="09:00"), "schedules[0].end", "equals start", '"24:00"'),
    ("crosses_midnight", schedule(start="22:00", end="06:00"), "schedules[0].end", '"06:00"', '"22:00" to "24:00"'),
    ("ends_at_midnight", schedule(start="22:00", end="00:00"), "schedules[0].end", '"00:00" crosses midnight', '"24:00"'),
    ("overlap", schedules({}, {"name": "b", "start": "17:00", "end": "19:00"}), "schedules[1]", "overlaps 'a' on mon", "end one where"),
    ("schedule_name_twice", schedules({}, {"days": ["tue"]}), "schedules[1].name", "'a'", "name of its own"),
    ("schedule_changes_nothing", schedule(roles=...), "schedules[0]", "changes nothing", "write roles"),
    ("schedule_both", schedule(replicas={"prefill": 2, "decode": 4}), "schedules[0].replicas", "beside roles", "one of the two"),
    ("schedule_unknown_role", schedule(roles={"decod": {"min": 6}}), "schedules[0].roles.decod", "no such role", "did you mean decode?"),
    ("schedule_min_above_max", schedule(roles={"decode": {"min": 40}}), "schedules[0].roles.decode.min", "40 is above max 32", "min: 32"),
    ("schedule_infeasible", schedule(roles={"prefill": {"max": 3}, "decode": {"min": 12}}), "schedules[0]", "12 needs 6 prefill", "prefill max: 6"),
    ("replicas_break_ratio", schedule(roles=..., replicas={"prefill": 2, "decode": 5}), "schedules[0].replicas", "decode: 5, prefill: 2", "prefill: 3"),
    ("replicas_above_max", schedule(roles=..., replicas={"prefill": 20, "decode": 40}), "schedules[0].replicas.decode", "40 is above max 32", "decode: 32"),
    ("replicas_below_min", schedule(roles=..., replicas={"prefill": 1, "decode": 2}), "schedules[0].replicas.decode", "2 is below min 4", "decode: 4"),
    ("placement_word", put("placement", value="off"), "placement", "'off'", "'none'"),
    ("affinity_s0", put("placement", "affinity", "level", value="s0"), "placement.affinity.level", "'s0'", "s1, s2 or cluster"),
    ("prefer_unknown", put("placement", "prefer", value="rack"), "placement.prefer", "'rack'", "write one of"),
]
# fmt: on


def refusal(document: object) -> SpecInvalid:
    """What `parse_spec` says against a document."""
    with pytest.raises(SpecInvalid) as caught:
        parse_spec(document, "spec.yaml")
    return caught.value


@pytest.mark.parametrize(("mutate", "field", "said", "cure"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_rule_names_field_value_and_cure(mutate: Mutation, field: str, said: str, cure: str) -> None:
    """Each broken rule is refused with one problem of that field whose text has the value and the cure."""
    document = good()
    mutate(document)

    error = refusal(document)

    about = [problem for problem in error.problems if path_text(problem.path).endswith(field)]
    assert about, f"nothing about {field}: {[str(problem) for problem in error.problems]}"
    assert any(said in problem.text and cure in problem.text for problem in about), [str(problem) for problem in about]
    assert "spec" == error.code
    assert field in str(error)


@pytest.mark.parametrize("name", [case[0] for case in CASES])
def test_a_broken_rule_drags_in_at_most_what_follows_from_it(name: str) -> None:
    """One mistake gives one problem, or a second one only where it truly breaks two rules; never a cascade."""
    mutate = next(case[1] for case in CASES if case[0] == name)
    document = good()
    mutate(document)

    assert len(refusal(document).problems) <= 3


def test_the_good_spec_makes_sense() -> None:
    """The spec that all cases start from is valid, so each case fails for its own reason."""
    spec = parse_spec(good())

    assert "chat-70b" == spec.service
    assert [GpuChoice(type="H20", weight=1.0)] == spec.roles["decode"].gpu_types


def test_all_problems_are_reported_at_once() -> None:
    """Mistakes in different places, of type and of sense, are all in one message, each on its line."""
    document = good()
    for mutate in (
        put("mode", value="activ"),
        put("roles", "decode", "min", value=40),
        put("window", "hop", value="7s"),
        drop("signals", 0, "target"),
    ):
        mutate(document)

    error = refusal(document)

    assert {"mode", "roles.decode.min", "window.hop", "signals[0].target"} <= {path_text(problem.path) for problem in error.problems}
    assert str(error).startswith("spec.yaml: 4 problems\n")


def test_what_was_judged_by_an_unreadable_field_is_not_said() -> None:
    """A field that cannot be read does not drag in rules that compare with it."""
    document = good()
    put("window", "size", value="soon")(document)
    put("window", "hop", value="7s")(document)

    assert ["window.size"] == [path_text(problem.path) for problem in refusal(document).problems]


@pytest.mark.parametrize("document", [None, 5, "service: x", [], {}, {"service": None}, {1: 2}])
def test_what_is_no_spec_is_refused(document: object) -> None:
    """Anything else than a mapping with the needed keys is refused, not a crash."""
    assert refusal(document).problems


def test_short_forms_are_written_out() -> None:
    """GPU types as names, the ratio of a single role, and the role of a signal need not be written."""
    spec = parse_spec(
        {
            "service": "s",
            "roles": {"worker": {"min": 0, "max": 4, "gpus": 1, "gpu_types": ["H200"]}},
            "signals": [{"metric": "decode_tps", "target": 10}],
        }
    )

    assert {"worker": 1} == spec.ratio
    assert [SignalSpec(metric=Metric.DECODE_TPS, role="worker", target=10.0)] == spec.signals
    assert [GpuChoice(type="H200")] == spec.roles["worker"].gpu_types


def test_the_usual_role_of_a_signal() -> None:
    """decode_tps means decode, prefill signals mean prefill, unless a role is named."""
    document = good()
    document["signals"] = [{"metric": "decode_tps", "target": 1}, {"metric": "prefill_missed_tps", "target": 2}]

    assert ["decode", "prefill"] == [signal.role for signal in parse_spec(document).signals]


def test_defaults_are_those_of_the_contract() -> None:
    """What a small spec leaves out is what the contract says."""
    spec = parse_spec({"service": "s", "roles": good()["roles"], "ratio": {"prefill": 1, "decode": 2}, "signals": good()["signals"]})

    assert ("default", "shadow", 100) == (spec.fleet, spec.mode.value, spec.priority)
    assert (60_000, 15_000, 5_000, 5_000, 15_000, 600_000) == tuple(getattr(spec.window, key).ms for key in spec.window.__struct_fields__)
    assert (Percent(0.05), Duration(0), Duration(60_000)) == (
        spec.behavior.scale_out.tolerance,
        spec.behavior.scale_out.stabilization,
        spec.behavior.scale_out.cooldown,
    )
    assert (Percent(0.15), Duration(300_000), Duration(600_000)) == (
        spec.behavior.scale_in.tolerance,
        spec.behavior.scale_in.stabilization,
        spec.behavior.scale_in.cooldown,
    )
    assert PlacementSpec() == spec.placement
    assert [] == spec.guards


def test_a_spec_survives_its_own_bytes() -> None:
    """What is written to the log is parsed to the same spec again."""
    spec = parse_spec(good())

    assert spec == codec.decode(ServiceSpec, codec.encode(spec))
    assert spec == parse_spec(codec.to_document(spec))


def test_instants_with_and_without_seconds() -> None:
    """Both forms, quoted or read by YAML itself, are the same instant."""
    for text in ("2026-12-01T00:00Z", "2026-12-01T00:00:00Z", '"2026-12-01T00:00:00Z"'):
        document = good() | yaml.safe_load(f"until: {text}\nthen: active")
        assert Instant(1_796_083_200_000) == parse_spec(document).until


def test_a_schedule_may_end_with_the_day() -> None:
    """24:00 is the end of a day, so a night needs two schedules and no gap."""
    document = good()
    schedules(
        {"name": "late", "start": "22:00", "end": "24:00", "days": ["mon"]},
        {"name": "early", "start": "00:00", "end": "06:00", "days": ["tue"]},
        {"name": "touching", "start": "06:00", "end": "08:00", "days": ["tue"]},
    )(document)

    assert 3 == len(parse_spec(document).schedules)


def test_replicas_may_name_one_role_of_the_ratio() -> None:
    """The other roles follow by the ratio."""
    document = good()
    document["schedules"][1]["replicas"] = {"decode": 6}

    assert {"decode": 6} == parse_spec(document).schedules[1].replicas


def test_an_empty_service_is_allowed() -> None:
    """Bounds of 0 everywhere are how a service is drained."""
    document = good()
    document["schedules"] = []
    for role in document["roles"].values():
        role["min"] = role["max"] = 0

    assert 0 == parse_spec(document).roles["decode"].max


def test_roles_outside_the_ratio() -> None:
    """A router may have bounds and a signal of its own, but not the first."""
    document = good()
    document["roles"]["router"] = {"min": 1, "max": 4, "gpus": 1}
    document["signals"].append({"metric": "gpu_util", "role": "router", "target": 0.5})
    assert 2 == len(parse_spec(document).signals)

    document["signals"].reverse()
    assert "signals[0].role: 'router' is outside the ratio" in str(refusal(document))


def test_parts_make_the_gpus() -> None:
    """A role with parts needs no gpus of its own."""
    document = good()
    document["roles"]["decode"] = {
        "min": 4,
        "max": 32,
        "parts": {"attention": {"count": 1, "gpus": 8}, "ffn": {"count": 2, "gpus": 8}},
        "within": "s1",
    }

    assert parse_spec(document).roles["decode"].gpus is None


def test_two_specs_that_name_one_target() -> None:
    """The later of two specs of one service is refused, naming the place of the first."""
    spec = parse_spec(good())

    [(index, problem)] = validation.check_together([("a.yaml:1", spec), ("b.yaml:1", spec)])

    assert 1 == index
    assert "service: 'chat-70b' is the target of another spec too (a.yaml:1)" in str(problem)


def test_the_fleet_cannot_change_while_instances_run() -> None:
    """A changed fleet is refused while the newest Placement lists instances, and allowed without."""
    before = parse_spec(good())
    after = parse_spec(good() | {"fleet": "eu"})

    [problem] = validation.check_change(before, after, {"decode": 4, "prefill": 2})

    assert "fleet: 'eu' is not 'default', where 6 instances still run; write fleet: default" in str(problem)
    assert [] == list(validation.check_change(before, after, {}))
    assert [] == list(validation.check_change(before, before, {"decode": 4}))


@pytest.mark.parametrize(
    ("mutate", "field"),
    [
        (put("mode", value="shadow"), "mode"),
        (put("window", "silence", value="3s"), "window.silence"),
        (put("behavior", "scale_in", "tolerance", value="100%"), "behavior.scale_in.tolerance"),
        (put("placement", "prefer", value="cluster"), "placement.prefer"),
        (put("missing_data", value={"fallback": "schedule"}), "none"),
    ],
)
def test_what_is_hardly_meant_is_advice_and_not_refused(mutate: Mutation, field: str) -> None:
    """Odd but possible values are accepted and pointed out."""
    document = good()
    mutate(document)

    hints = [path_text(hint.path) for hint in advise(parse_spec(document))]

    assert hints == ([] if field == "none" else [field])
