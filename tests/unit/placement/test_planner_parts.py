"""Roles made of parts (attention and FFN of a mixture of experts): replicas stay together, and both ratios hold."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from heteroscale.contracts.fleet import NodeState
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning import planner
from heteroscale.placement.planning.model import IdSource, Planned, PlanStatus, Request, Snapshot
from support.plans import check_sound, new_instances, node, nodes_of, pod, request, role, snapshot


def one(view: Snapshot, asked: Request) -> Planned:
    """The one answer, checked by the referee."""
    answers = planner.plan(view, [asked])
    check_sound(view, [asked], answers)
    return answers[0]


def test_parts_lie_within_one_lower_domain() -> None:
    """Attention and FFN of a replica share an s1; the pair shares the s2; parts share their replica number."""
    view = snapshot([*pod("c/A/x", 3), *pod("c/A/y", 2), *pod("c/A/z", 2)])
    decode = role(2, 16, parts={"attention": (1, 8), "ffn": (1, 8)}, within=Level.S1)
    answer = one(view, request("s", {"prefill": role(1), "decode": decode}))
    replicas: dict[int | None, set[str]] = {}
    for instance in new_instances(answer):
        if instance.role == "decode":
            replicas.setdefault(instance.replica, set()).update(name.split("-")[2] for name in instance.nodes)
    assert (PlanStatus.PLACED, {0, 1}) == (answer.status, set(replicas))
    assert all(len(pods) == 1 for pods in replicas.values())


def test_parts_within_a_rack() -> None:
    """`within: s0` holds a replica in one rack."""
    view = snapshot([node(f"c/A/x/{rack}/{rack}{at}") for rack in ("r0", "r1") for at in range(3)], used={"r00": 8, "r10": 8, "r11": 8})
    decode = role(1, 16, parts={"attention": (1, 8), "ffn": (1, 8)}, within=Level.S0)
    assert ["r01", "r02"] == nodes_of(one(view, request("s", {"decode": decode})))


def test_a_broken_replica_gets_its_missing_part_back() -> None:
    """The ffn of a replica was lost: a new one stands beside the attention that lives, under the same replica number."""
    nodes = [*pod("c/A/x", 4), *pod("c/A/y", 4)]
    decode = role(1, 16, parts={"attention": (1, 8), "ffn": (1, 8)}, within=Level.S1)
    asked = request("s", {"prefill": role(1), "decode": decode})
    first = one(snapshot(nodes), asked)
    ffn = next(instance for instance in first.assignment[0].instances if instance.part == "ffn")
    lost = [msgspec.structs.replace(each, state=NodeState.LOST) if each.node in ffn.nodes else each for each in nodes]
    again = one(snapshot(lost, [("s", first.assignment[0])]), replace(asked, ids=IdSource("s", "1.2")))
    (born,) = new_instances(again)
    attention = next(instance for instance in again.assignment[0].instances if instance.part == "attention")
    assert ("ffn", attention.replica, {}) == (born.part, born.replica, dict(again.shortfall))
    assert {name.split("-")[2] for name in attention.nodes} == {name.split("-")[2] for name in born.nodes}


def test_parts_keep_both_ratios_when_not_all_fit() -> None:
    """Room for one of two units: whole replicas of attention and ffn, at 1P:1D."""
    decode = role(2, 16, parts={"attention": (1, 8), "ffn": (1, 8)}, within=Level.S1)
    answer = one(snapshot(pod("c/A/x", 5)), request("s", {"prefill": role(2), "decode": decode}))
    parts = sorted(instance.part or instance.role for instance in new_instances(answer))
    assert (PlanStatus.PARTIAL, ["attention", "ffn", "prefill"]) == (answer.status, parts)
    assert {"prefill": 1, "decode": 1} == dict(answer.shortfall)
