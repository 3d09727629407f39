"""`heteroscale plan`: the output lines of the contract, and what it says of files that make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heteroscale.cli import plan_files
from heteroscale.cli.commands.plan import plan
from heteroscale.contracts.errors import Rejected

FLEET = """\
fleet: default
nodes:
  - {node: a1-1, gpu_type: H20, gpus: 8, used: 0, at: {cluster: c1, s2: A, s1: a1}, state: ready}
  - {node: a1-2, gpu_type: H20, gpus: 8, at: {cluster: c1, s2: A, s1: a1}}
  - {node: a1-3, gpu_type: H20, gpus: 8, at: {cluster: c1, s2: A, s1: a1}}
  - {node: a2-1, gpu_type: H20, gpus: 8, used: 4, at: {cluster: c1, s2: A, s1: a2}}
groups:
  - {id: g1, service: chat, domain: {s2: A}, instances: [{id: i1, role: prefill, nodes: {a1-1: 8}, state: ready}]}
"""
REQUESTS = """\
requests:
  - {service: chat, roles: {prefill: {add: 0, gpus: 8, gpu_types: [H20]}, decode: {add: 1, gpus: 8, gpu_types: [{type: H20, weight: 1.0}]}}}
  - {service: r1, priority: 10, roles: {prefill: {add: 2, gpus: 8, gpu_types: [H20]}, decode: {add: 6, gpus: 8, gpu_types: [H20]}},
     affinity: {level: s2, mode: required}, prefer: s1, partial: none}
"""


def lines(tmp_path: Path, fleet: str, requests: str) -> list[dict[str, Any]]:
    """The JSON lines that the command prints."""
    paths = [tmp_path / "fleet.yaml", tmp_path / "requests.yaml"]
    for path, text in zip(paths, (fleet, requests), strict=True):
        path.write_text(text)
    result = CliRunner().invoke(plan, [*map(str, paths), "--json"], catch_exceptions=False)
    assert 0 == result.exit_code
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_output_lines_follow_the_contract(tmp_path: Path) -> None:
    """One line a request in the file's order, with the contract's fields and nothing missing."""
    chat, r1 = lines(tmp_path, FLEET, REQUESTS)
    assert ["chat", "r1"] == [chat["service"], r1["service"]]
    assert {"service", "status", "groups", "released", "shortfall", "reason", "explain"} == set(chat)
    assert ("placed", "grown", {}, []) == (chat["status"], chat["reason"], chat["shortfall"], chat["released"])
    group = chat["groups"][0]
    assert ("g1", False, {"cluster": "c1", "s2": "A", "s1": "a1"}) == (group["id"], group["new"], group["domain"])
    assert {"prefill": "ready", "decode": "reserved"} == {one["role"]: one["state"] for one in group["instances"]}
    assert ("unplaced", "no_capacity", []) == (r1["status"], r1["reason"], r1["groups"])
    assert {"prefill": 2, "decode": 6} == r1["shortfall"] == r1["explain"]["needed"]
    assert ["chat"] == r1["explain"]["blocked_by"]
    assert {"cluster": "c1", "s2": "A", "s1": None} == r1["explain"]["best_domain"]
    assert {"best_domain", "needed", "available", "blocked_by", "text"} == set(r1["explain"])


def test_released_instances_are_named_and_left_out(tmp_path: Path) -> None:
    """A group that only loses instances is not listed."""
    down = "requests: [{service: chat, roles: {prefill: {replicas: 0, gpus: 8}}}]"
    answer = lines(tmp_path, FLEET, down)[0]
    assert ("placed", "released", ["i1"], []) == (answer["status"], answer["reason"], answer["released"], answer["groups"])


def test_add_counts_what_runs_and_leaves_lost_ones_out(tmp_path: Path) -> None:
    """`add: 0` with a lost instance asks for nothing; `replicas: 1` asks for its replacement."""
    lost = FLEET.replace("s1: a1}, state: ready", "s1: a1}, state: lost")
    role = "gpus: 8, gpu_types: [H20]"
    calm = lines(tmp_path, lost, f"requests: [{{service: chat, roles: {{prefill: {{add: 0, {role}}}}}}}]")[0]
    again = lines(tmp_path, lost, f"requests: [{{service: chat, roles: {{prefill: {{replicas: 1, {role}}}}}}}]")[0]
    assert ("unchanged", "placed", "grown") == (calm["status"], again["status"], again["reason"])


def test_people_get_a_tree(tmp_path: Path) -> None:
    """Without --json: service, group, domain, instances on nodes."""
    (tmp_path / "f.yaml").write_text(FLEET)
    (tmp_path / "r.yaml").write_text(REQUESTS)
    result = CliRunner().invoke(plan, [str(tmp_path / "f.yaml"), str(tmp_path / "r.yaml")], catch_exceptions=False)
    assert "group g1  c1/A/a1, low pool" in result.stdout
    assert "missing: 6 decode, 2 prefill; best in c1/A" in result.stdout


@pytest.mark.parametrize(
    ("fleet", "requests", "where", "what"),
    [
        (FLEET.replace("{a1-1: 8}", "{a9-9: 8}"), REQUESTS, "fleet.yaml:8", "a9-9 of instance i1 is not a node"),
        (FLEET.replace("used: 0", "used: 4"), REQUESTS, "fleet.yaml:3", "a1-1 has 8 GPUs, but 8 are held by g1 and 4 are used"),
        (FLEET.replace("a1-2,", "a1-1,"), REQUESTS, "fleet.yaml:4", "stands twice"),
        (FLEET.replace("used: 4", "used: 9"), REQUESTS, "fleet.yaml:6", "write 0 to 8"),
        (FLEET.replace("gpus: 8, used: 4", "gpus: 1000000"), REQUESTS, "fleet.yaml:6", "write 1 to 1024"),
        ("[" * 100_000, REQUESTS, "fleet.yaml", "nested too deeply"),
        ("- " * 100_000, REQUESTS, "fleet.yaml", "nested too deeply"),
        (FLEET, REQUESTS.replace("priority: 10", "dry_run: 1"), "requests.yaml:3", "neither true nor false"),
        (FLEET.replace("gpus: 8, used: 4", "gpu: 8"), REQUESTS, "fleet.yaml:6", "did you mean gpus?"),
        (FLEET, REQUESTS.replace("level: s2", "level: s4"), "requests.yaml:4", "write one of s0, s1, s2, cluster"),
        (FLEET, REQUESTS.replace("priority", "priorty"), "requests.yaml:3", "did you mean priority?"),
        (FLEET, REQUESTS.replace("{add: 0,", "{add: 0, replicas: 1,"), "requests.yaml:2", "keep one of them"),
        (FLEET, REQUESTS.replace("{add: 0, gpus: 8,", "{add: 0,"), "requests.yaml:2", "gpus: is missing"),
        (FLEET, REQUESTS.replace("r1", "chat"), "requests.yaml:3", "chat stands twice"),
        (FLEET, "[]", "requests.yaml:1", "is not a mapping"),
        ("nodes: [", REQUESTS, "fleet.yaml:2", "not YAML"),
    ],
)
def test_mistakes_are_refused_with_place_and_cure(tmp_path: Path, fleet: str, requests: str, where: str, what: str) -> None:
    """File, line, field, value, and what to write instead."""
    for name, text in (("fleet.yaml", fleet), ("requests.yaml", requests)):
        (tmp_path / name).write_text(text)
    with pytest.raises(Rejected) as refused:
        plan_files.load(str(tmp_path / "fleet.yaml"), str(tmp_path / "requests.yaml"))
    assert where in str(refused.value)
    assert what in str(refused.value)


def test_an_answer_goes_back_in_as_a_group_that_runs(tmp_path: Path) -> None:
    """Groups have one form: what one plan prints, with its nulls and flags, the next reads under `groups`."""
    fleet = FLEET.split("groups:", maxsplit=1)[0]
    (answer,) = lines(
        tmp_path, fleet, "requests: [{service: chat, roles: {prefill: {replicas: 1, gpus: 8}, decode: {replicas: 1, gpus: 8}}}]"
    )
    groups = [{"service": "chat", **{key: value for key, value in group.items() if key != "new"}} for group in answer["groups"]]
    again = "requests: [{service: chat, dry_run: true, roles: {prefill: {add: 0, gpus: 8}, decode: {add: 0, gpus: 8}}}]"
    (unchanged,) = lines(tmp_path, f"{fleet}groups: {json.dumps(groups)}\n", again)
    assert ("placed", "unchanged", True, []) == (answer["status"], unchanged["status"], unchanged["dry_run"], unchanged["groups"])
