"""What must hold of a plan for any fleet and any requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from heteroscale.contracts.commands import CommandRole
from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.contracts.placements import InstanceState
from heteroscale.contracts.spec import GpuChoice
from heteroscale.placement.planning import planner
from heteroscale.placement.planning.model import IdSource, Planned, PlanStatus, Request, Snapshot
from support import plans

RATIOS = ({"prefill": 1, "decode": 2}, {"prefill": 1, "decode": 1}, {"prefill": 2, "decode": 3}, None)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[FleetNode], dict[str, int]]:
    """A few pods of one or two GPU types, some nodes partly used, some cordoned or lost."""
    nodes: list[FleetNode] = []
    used: dict[str, int] = {}
    for s1 in range(draw(st.integers(1, 5))):
        s2 = draw(st.integers(0, 1))
        for at in range(draw(st.integers(1, 4))):
            kind = draw(st.sampled_from(["H20", "H20", "L20"]))
            state = draw(st.sampled_from(["ready"] * 6 + ["cordoned", "lost"]))
            place = NodeAt(cluster="c", s2=f"S{s2}", s1=f"p{s1}", s0=draw(st.sampled_from([None, "r0", "r1"])))
            name = f"n{s1}-{at}"
            nodes.append(FleetNode(node=name, fleet="f", gpu_type=kind, gpus=8, at=place, state=NodeState(state)))
            used[name] = draw(st.sampled_from([0, 0, 0, 2, 4, 5, 8]))
    return nodes, used


def _types(draw: st.DrawFn) -> list[GpuChoice]:
    return [GpuChoice(type=name) for name in draw(st.sampled_from([["H20"], ["L20"], ["H20", "L20"], ["L20", "H20"], []]))]


@st.composite
def asks(draw: st.DrawFn, service: str) -> Request:
    """A request of moderate size in any mode."""
    sizes = st.sampled_from([1, 2, 3, 4, 8, 8, 16])
    roles = {
        name: CommandRole(replicas=draw(st.integers(0, 4)), draining=draw(st.integers(0, 1)), gpus=draw(sizes), gpu_types=_types(draw))
        for name in ("prefill", "decode")
    }
    more: dict[str, Any] = {
        "level": draw(st.sampled_from(["s1", "s2", "cluster"])),
        "mode": draw(st.sampled_from(["required", "preferred"])),
        "partial": draw(st.sampled_from(["whole-units", "none"])),
        "spread": draw(st.sampled_from(["none", "node", "s0", "s1"])),
        "priority": draw(st.sampled_from([1, 2])),
        "ratio": draw(st.sampled_from(RATIOS)),
    }
    command = plans.request(service, roles, level=more.pop("level"), mode=more.pop("mode")).command
    document = msgspec.to_builtins(command, enc_hook=str)
    return plans.request(service, roles, level=document["affinity"]["level"], mode=document["affinity"]["mode"], **_typed(more))


def _typed(more: dict[str, Any]) -> dict[str, Any]:
    from heteroscale.contracts.spec import Partial, Spread  # noqa: PLC0415  # beside its one use

    return {**more, "partial": Partial(more["partial"]), "spread": Spread(more["spread"])}


def requests() -> st.SearchStrategy[list[Request]]:
    """One to four requests of different services."""
    return st.integers(1, 4).flatmap(lambda count: st.tuples(*(asks(f"s{at}") for at in range(count))).map(list))


def verdicts(answers: list[Planned]) -> dict[str, tuple[Any, ...]]:
    """What must not depend on names or order."""
    return {
        one.service: (one.status, one.reason, dict(one.shortfall), dict(one.explain.needed), dict(one.explain.available)) for one in answers
    }


def carried_out(view: Snapshot, answers: list[Planned]) -> Snapshot:
    """The snapshot after the answers came true: what is new is ready, what stops is gone."""
    free = view.free.copy()
    assignments = dict(view.assignments)
    for one in answers:
        for name, gpus in one.taken.items():
            free[view.topology.index[name]] -= gpus
        groups = []
        for group in one.assignment:
            kept = []
            for instance in group.instances:
                if instance.state is InstanceState.STOPPING:
                    for name, gpus in instance.nodes.items():
                        free[view.topology.index[name]] += gpus
                else:
                    state = InstanceState.READY if instance.state is InstanceState.RESERVED else instance.state
                    kept.append(msgspec.structs.replace(instance, state=state))
            groups.append(msgspec.structs.replace(group, instances=kept))
        assignments[one.service] = tuple(group for group in groups if group.instances)
    return replace(view, free=free, assignments=assignments)


@settings(max_examples=150)
@given(fleets(), requests(), requests())
def test_never_over_commits_and_gangs_are_whole(
    fleet: tuple[list[FleetNode], dict[str, int]], first: list[Request], then: list[Request]
) -> None:
    """NO-OVERLAP and PAIR, on an empty fleet and again on what the first cycle left."""
    view = plans.snapshot(*fleet[:1], used=fleet[1])
    answers = planner.plan(view, first)
    plans.check_sound(view, first, answers)
    after = carried_out(view, answers)
    second = [replace(one, ids=IdSource(one.command.service, "1.2")) for one in then]
    plans.check_sound(after, second, planner.plan(after, second))


@settings(max_examples=100)
@given(fleets(), requests(), st.randoms(use_true_random=False))
def test_order_and_names_change_no_verdict(fleet: tuple[list[FleetNode], dict[str, int]], asked: list[Request], random: Any) -> None:
    """Statuses, reasons and figures are the same when nodes, pods and the input are shuffled and renamed."""
    nodes, used = fleet
    expected = verdicts(planner.plan(plans.snapshot(nodes, used=used), asked))
    numbers = list(range(100))
    random.shuffle(numbers)
    names = {one.node: f"m{number}" for one, number in zip(nodes, numbers, strict=False)}
    pods = {f"p{at}": f"q{number}" for at, number in enumerate(numbers[:10])}
    spines = dict(zip(("S0", "S1"), random.sample(["X", "Y"], 2), strict=True))
    racks: dict[str | None, str | None] = {None: None, **dict(zip(("r0", "r1"), random.sample(["y0", "y1"], 2), strict=True))}
    renamed = [
        msgspec.structs.replace(
            one,
            node=names[one.node],
            at=NodeAt(cluster="d", s2=spines[one.at.s2], s1=pods[one.at.s1], s0=racks[one.at.s0]),
        )
        for one in nodes
    ]
    random.shuffle(renamed)
    shuffled = list(asked)
    random.shuffle(shuffled)
    view = plans.snapshot(renamed, used={names[name]: gpus for name, gpus in used.items()})
    assert expected == verdicts(planner.plan(view, shuffled))


@settings(max_examples=120)
@given(fleets(), asks("s0"), st.sampled_from(["p0", "p1", "new"]), st.sampled_from(["H20", "L20"]))
def test_one_more_node_hurts_no_single_request(
    fleet: tuple[list[FleetNode], dict[str, int]], asked: Request, where: str, kind: str
) -> None:
    """What is placed whole stays placeable when a node is added."""
    nodes, used = fleet
    before = planner.plan(plans.snapshot(nodes, used=used), [asked])[0]
    s2 = next((one.at.s2 for one in nodes if one.at.s1 == where), "S0")
    more = FleetNode(node="extra", fleet="f", gpu_type=kind, gpus=8, at=NodeAt(cluster="c", s2=s2, s1=where))
    after = planner.plan(plans.snapshot([*nodes, more], used=used), [asked])[0]
    if not before.shortfall:
        assert dict(after.shortfall) == {}
    if before.status is PlanStatus.PLACED:
        assert after.status is PlanStatus.PLACED


@settings(max_examples=100)
@given(fleets(), asks("s0"), st.integers(1, 3))
def test_out_then_in_returns_the_inventory(fleet: tuple[list[FleetNode], dict[str, int]], asked: Request, more: int) -> None:
    """NO-LEAK: after scaling to nothing every GPU is free again and no group is left."""
    view = plans.snapshot(fleet[0], used=fleet[1])
    grown = msgspec.structs.replace(
        asked.command,
        roles={name: msgspec.structs.replace(role, replicas=role.replicas + more) for name, role in asked.command.roles.items()},
    )
    none = msgspec.structs.replace(
        asked.command, roles={name: msgspec.structs.replace(role, replicas=0, draining=0) for name, role in asked.command.roles.items()}
    )
    at = view
    for life, command in enumerate((asked.command, grown, none)):
        at = carried_out(at, planner.plan(at, [replace(asked, command=command, ids=IdSource("s0", f"1.{life}"))]))
    assert view.free.tolist() == at.free.tolist()
    assert at.assignments["s0"] == ()


@settings(max_examples=60)
@given(fleets(), requests())
def test_planning_again_changes_nothing(fleet: tuple[list[FleetNode], dict[str, int]], asked: list[Request]) -> None:
    """SAME-IN-SAME-OUT, and a service that has all it wants is left alone."""
    view = plans.snapshot(fleet[0], used=fleet[1])
    answers = planner.plan(view, asked)
    assert answers == planner.plan(view, asked)
    after = carried_out(view, answers)
    calm = [
        replace(
            one,
            command=msgspec.structs.replace(
                one.command, roles={n: msgspec.structs.replace(r, draining=0) for n, r in one.command.roles.items()}
            ),
        )
        for one, answer in zip(asked, answers, strict=True)
        if not answer.shortfall
    ]
    for answer in planner.plan(after, calm):
        assert answer.status is PlanStatus.UNCHANGED
        assert answer.transitions == ()
