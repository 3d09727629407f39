"""Every rule of a cycle on a fleet small enough to check by hand."""

from __future__ import annotations

from heteroscale.contracts.placements import DegradedReason, Domain, InstanceState, Pool
from heteroscale.contracts.spec import Level, Partial, Spread
from heteroscale.placement.planning import planner
from heteroscale.placement.planning.model import Planned, PlanReason, PlanStatus, Request, Snapshot
from support.plans import check_sound, counts, new_instances, node, nodes_of, pair, pod, request, role, running, snapshot

WHOLE = Partial.NONE


def planned(view: Snapshot, *requests: Request) -> list[Planned]:
    """The answers, checked by the referee."""
    answers = planner.plan(view, requests)
    check_sound(view, requests, answers)
    return answers


def one(view: Snapshot, asked: Request) -> Planned:
    """The one answer."""
    return planned(view, asked)[0]


MIXED = [
    *pod("c/low/l1", 3),
    *pod("c/mix/m1", 3),
    *pod("c/mix/m2", 3, "L20"),
    *pod("c/mix/h1", 3),
    *pod("c/mix/h1", 3, "L20"),
]


def test_pool_classes_are_structural() -> None:
    """Low: one type in the s2; medium: several there, one here; high: several here, a lost node counted."""
    view = snapshot([*pod("c/low/l1", 1), *pod("c/mix/m1", 1), node("c/mix/h1/a"), node("c/mix/h1/b", "L20", state="lost")])
    pools = {path[-1]: int(view.topology.pool[at]) for at, path in enumerate(view.topology.levels[Level.S1].paths)}
    assert {"l1": 0, "m1": 1, "h1": 2} == pools


def test_the_cheapest_pool_that_fits_is_used() -> None:
    """Plain requests fill low, then medium, then high pools."""
    answers = planned(snapshot(MIXED), *(pair(f"s{at}", 1, 2, priority=9 - at) for at in range(3)))
    assert [Pool.LOW, Pool.MEDIUM, Pool.HIGH] == [answer.assignment[0].pool for answer in answers]


def test_roles_of_two_types_in_one_s1_take_the_high_pool() -> None:
    """Only a high pool hosts both types within s1."""
    asked = request("s", {"prefill": role(1, 8, "L20"), "decode": role(2, 8, "H20")}, level="s1")
    assert Domain(cluster="c", s2="mix", s1="h1") == one(snapshot(MIXED), asked).assignment[0].domain


def test_growth_comes_before_birth() -> None:
    """A group that has room grows, though another pod is emptier."""
    group = running("g", "s", {"p": ("prefill", {"c-A-x-H20-0": 8}), "d": ("decode", {"c-A-x-H20-1": 8})})
    answer = one(snapshot([*pod("c/A/x", 5), *pod("c/B/y", 20)], [group]), pair("s", 2, 3))
    assert (PlanStatus.PLACED, PlanReason.GROWN, (), ["g"]) == (
        answer.status,
        answer.reason,
        answer.born,
        [g.id for g in answer.assignment],
    )


def test_what_does_not_fit_opens_a_group_in_whole_units() -> None:
    """Room for one more decode does not lure half a unit into the old domain."""
    group = running(
        "g", "s", {"p": ("prefill", {"c-A-x-H20-0": 8}), "d": ("decode", {"c-A-x-H20-1": 8}), "e": ("decode", {"c-A-x-H20-2": 8})}
    )
    answer = one(snapshot([*pod("c/A/x", 4), *pod("c/B/y", 3)], [group]), pair("s", 2, 4))
    assert (PlanReason.PLACED, 1, {}) == (answer.reason, len(answer.born), dict(answer.shortfall))
    assert {"c-B-y-H20-0", "c-B-y-H20-1", "c-B-y-H20-2"} == set(nodes_of(answer))


def test_a_leftover_with_fewer_roles_never_opens_a_group() -> None:
    """One decode alone waits for room beside its group."""
    group = running("g", "s", {"p": ("prefill", {"c-A-x-H20-0": 8}), "d": ("decode", {"c-A-x-H20-1": 8})})
    answer = one(snapshot([*pod("c/A/x", 2), *pod("c/B/y", 3)], [group]), pair("s", 1, 2))
    assert (PlanStatus.UNPLACED, PlanReason.NO_DOMAIN, {"decode": 1}) == (answer.status, answer.reason, dict(answer.shortfall))


def test_a_leftover_with_every_role_may_open_a_group() -> None:
    """1P:1D under a ratio of 1:2 serves on its own."""
    answer = one(snapshot(pod("c/A/x", 2)), pair("s", 1, 1))
    assert (PlanStatus.PLACED, {"prefill": 1, "decode": 1}) == (answer.status, counts(answer))


def test_no_cross_domain_halves() -> None:
    """Three nodes in two s2 hold no 1P:2D under a required s2."""
    answer = one(snapshot([*pod("c/A/x", 2), *pod("c/B/y", 1)]), pair("s", 1, 2))
    assert (PlanStatus.UNPLACED, PlanReason.NO_DOMAIN) == (answer.status, answer.reason)
    assert {"prefill": 1, "decode": 2} == dict(answer.shortfall)
    assert Domain(cluster="c", s2="A") == answer.explain.best_domain
    assert {"prefill": 1, "decode": 1} == dict(answer.explain.available)


def test_whole_units_over_several_domains() -> None:
    """As many units as fit, the rest is stated."""
    answer = one(snapshot([*pod("c/A/x", 4), *pod("c/B/y", 4)]), pair("s", 3, 6))
    assert (PlanStatus.PARTIAL, PlanReason.NO_CAPACITY, 2) == (answer.status, answer.reason, len(answer.born))
    assert {"prefill": 1, "decode": 2} == dict(answer.shortfall)


def test_partial_none_is_all_in_one_domain_or_nothing() -> None:
    """Two domains of one unit each do not hold two units under `none`."""
    view = snapshot([*pod("c/A/x", 3), *pod("c/B/y", 3)])
    answer = one(view, pair("s", 2, 4, partial=WHOLE))
    assert (PlanStatus.UNPLACED, {"prefill": 2, "decode": 4}) == (answer.status, dict(answer.shortfall))
    assert PlanStatus.PLACED is one(view, pair("s", 2, 4)).status


def test_virtual_allocation_and_priority() -> None:
    """What the first took is gone for the second, and priority says who is first, whatever the order."""
    asked = [pair("low", 1, 2, priority=1), pair("high", 1, 2, priority=2)]
    low, high = planned(snapshot(pod("c/A/x", 4)), *asked)
    assert (PlanStatus.PLACED, PlanStatus.UNPLACED, PlanReason.NO_CAPACITY) == (high.status, low.status, low.reason)
    assert ["high"] == low.explain.blocked_by


def test_a_victims_gpus_are_not_free_in_the_same_cycle() -> None:
    """One service shrinks, another does not get its GPUs yet."""
    group = running("g", "a", {"p": ("prefill", {"c-A-x-H20-0": 8}), "d": ("decode", {"c-A-x-H20-1": 8})})
    shrinking, growing = planned(snapshot(pod("c/A/x", 2), [group]), pair("a", 0, 0), pair("b", 1, 1))
    assert (PlanStatus.PLACED, PlanReason.RELEASED, ("d", "p")) == (shrinking.status, shrinking.reason, shrinking.released)
    assert (PlanStatus.UNPLACED, ["a"]) == (growing.status, growing.explain.blocked_by)


def test_a_queued_request_holds_back_its_best_domain() -> None:
    """The lower one would fit, but takes nothing that the higher one waits for; in the other domain it may."""
    busy = running("g", "x", {"i": ("prefill", {"c-A-x-H20-0": 8}), "j": ("decode", {"c-A-x-H20-1": 8})})
    asked = [pair("high", 2, 4, priority=2, partial=WHOLE), pair("low", 1, 2, priority=1)]
    high, low = planned(snapshot(pod("c/A/x", 6), [busy]), *asked)
    assert (PlanStatus.UNPLACED, PlanStatus.UNPLACED, PlanReason.HELD_FOR_PRIORITY) == (high.status, low.status, low.reason)
    assert "high" in low.explain.blocked_by
    assert PlanStatus.PLACED is planned(snapshot([*pod("c/A/x", 6), *pod("c/B/y", 3)], [busy]), *asked)[1].status


def test_nothing_is_held_for_what_can_never_fit() -> None:
    """A request larger than the whole domain holds nothing back."""
    high, low = planned(snapshot(pod("c/A/x", 4)), pair("high", 2, 4, priority=2, partial=WHOLE), pair("low", 1, 2, priority=1))
    assert (PlanStatus.UNPLACED, PlanStatus.PLACED) == (high.status, low.status)


def test_preferred_widens_and_says_so() -> None:
    """No s2 holds it, the cluster does: degraded, wider than preferred."""
    answer = one(snapshot([*pod("c/A/x", 2), *pod("c/B/y", 1)]), pair("s", 1, 2, mode="preferred"))
    group = answer.assignment[0]
    assert (PlanStatus.PLACED, True, DegradedReason.WIDER_THAN_PREFERRED) == (answer.status, group.degraded, group.degraded_reason)
    assert Domain(cluster="c") == group.domain


def test_it_waits_for_the_preferred_level_and_then_settles() -> None:
    """`wait` delays anything wider than s1 until the time is over."""
    view = snapshot([*pod("c/A/x", 2), *pod("c/A/y", 2)])
    early = one(view, pair("s", 1, 2, wait_ms=60_000))
    late = one(view, pair("s", 1, 2, wait_ms=60_000, waited_ms=60_000))
    assert (PlanStatus.UNPLACED, PlanReason.WAITING_PREFERRED, PlanStatus.PLACED) == (early.status, early.reason, late.status)
    assert PlanStatus.PLACED is one(snapshot([*pod("c/A/x", 2), *pod("c/A/y", 3)]), pair("s", 1, 2, wait_ms=60_000)).status


def test_gpu_types_by_preference() -> None:
    """Preferred first, less preferred only for what does not fit, even across s1."""
    view = snapshot([*pod("c/A/x", 2), *pod("c/A/y", 6, "L20")])
    answer = one(view, request("s", {"prefill": role(3, 8, "H20", "L20"), "decode": role(1, 8, "L20")}))
    kinds = sorted(instance.gpu_type for instance in new_instances(answer) if instance.role == "prefill")
    assert ["H20", "H20", "L20"] == kinds


def test_a_role_with_one_choice_goes_before_one_with_two() -> None:
    """Prefill leaves the H20 to decode, which can run on nothing else."""
    view = snapshot([*pod("c/A/x", 2), *pod("c/A/x", 2, "L20")])
    answer = one(view, request("s", {"prefill": role(2, 8, "H20", "L20"), "decode": role(2, 8, "H20")}, level="s1"))
    assert PlanStatus.PLACED is answer.status


def test_small_instances_share_the_fullest_node_that_fits() -> None:
    """Best fit: the part-used node is filled first."""
    view = snapshot(pod("c/A/x", 3), used={"c-A-x-H20-1": 4, "c-A-x-H20-2": 2})
    answer = one(view, pair("s", 1, 1, gpus=2))
    assert ["c-A-x-H20-1", "c-A-x-H20-1"] == nodes_of(answer)


def test_a_large_instance_takes_whole_nodes_of_one_s1() -> None:
    """16 GPUs: two whole nodes in one s1, never a part-used one, never over two s1."""
    view = snapshot([*pod("c/A/x", 2), *pod("c/A/y", 3)], used={"c-A-x-H20-0": 1})
    answer = one(view, request("s", {"decode": role(1, 12)}))
    assert [{"c-A-y-H20-0": 8, "c-A-y-H20-1": 8}] == [instance.nodes for instance in new_instances(answer)]
    split = snapshot([*pod("c/A/x", 1), *pod("c/A/y", 1)])
    assert PlanReason.FRAGMENTED is one(split, request("s", {"decode": role(1, 16)})).reason
    assert PlanStatus.PLACED is one(split, request("s", {"decode": role(1, 16, within=Level.S2)})).status


def test_cordoned_nodes_take_nothing_but_keep_what_they_hold() -> None:
    """The instance there stays; growth goes around."""
    nodes = [node("c/A/x/a", state="cordoned"), node("c/A/x/b"), node("c/A/x/d"), node("c/A/x/e")]
    group = running("g", "s", {"p": ("prefill", {"a": 4}), "d1": ("decode", {"b": 8}), "d2": ("decode", {"d": 8})})
    answer = one(snapshot(nodes, [group]), request("s", {"prefill": role(2, 4), "decode": role(2)}, ratio={"prefill": 1, "decode": 1}))
    assert (["e"], ()) == (nodes_of(answer), answer.released)


def test_a_node_may_be_named_like_a_pod() -> None:
    """Identity is the path: s1 a1 stands in two clusters, and a node is called a1."""
    view = snapshot([node("c1/A/a1/a1"), node("c1/A/a1/n2"), node("c2/A/a1/n3"), node("c2/A/a1/A")])
    answer = one(view, pair("s", 1, 3, level="cluster"))
    assert (PlanStatus.UNPLACED, PlanReason.NO_DOMAIN, 2) == (answer.status, answer.reason, len(view.topology.levels[Level.S1]))


def test_lost_nodes_are_replaced_inside_the_domain() -> None:
    """The replacement joins the same group in its s2, not the emptier one."""
    nodes = [node("c/A/x/a"), node("c/A/x/b", state="lost"), node("c/A/y/e"), *pod("c/B/z", 9)]
    group = running("g", "s", {"p": ("prefill", {"a": 8}), "d": ("decode", {"b": 8})})
    answer = one(snapshot(nodes, [group]), pair("s", 1, 1))
    states = {instance.id: instance.state for instance in answer.assignment[0].instances}
    assert (["e"], (), InstanceState.FAILED, False) == (nodes_of(answer), answer.born, states["d"], answer.assignment[0].degraded)


def test_one_that_cannot_be_replaced_never_blocks_another() -> None:
    """Two groups lost a node each; one domain is full, the other is not; no new group is opened for a single role."""
    nodes = [node("c/A/x/a"), node("c/A/x/b", state="lost"), node("c/B/y/e"), node("c/B/y/h", state="lost"), *pod("c/B/y", 3)]
    groups = [
        running("g1", "s", {"p1": ("prefill", {"a": 8}), "d1": ("decode", {"b": 8})}),
        running("g2", "s", {"p2": ("prefill", {"e": 8}), "d2": ("decode", {"h": 8})}),
    ]
    answer = one(snapshot(nodes, groups), pair("s", 2, 2))
    g1, g2 = answer.assignment
    assert (PlanStatus.PARTIAL, PlanReason.NODE_LOST, {"decode": 1}) == (answer.status, answer.reason, dict(answer.shortfall))
    assert (True, DegradedReason.NODE_LOST, False, ()) == (g1.degraded, g1.degraded_reason, g2.degraded, answer.born)


def test_an_unreplaceable_loss_alone_is_unplaced_and_degraded() -> None:
    """Its group is listed and says so."""
    group = running("g", "s", {"p": ("prefill", {"a": 8}), "d": ("decode", {"b": 8})})
    answer = one(snapshot([node("c/A/x/a"), node("c/A/x/b", state="lost")], [group]), pair("s", 1, 1))
    assert (PlanStatus.UNPLACED, PlanReason.NODE_LOST, ("g",), True) == (
        answer.status,
        answer.reason,
        answer.changed,
        answer.assignment[0].degraded,
    )


def test_a_whole_lost_group_comes_back_elsewhere() -> None:
    """When all roles are gone, whole units may open a group in another domain."""
    nodes = [node("c/A/x/a", state="lost"), node("c/A/x/b", state="lost"), *pod("c/B/y", 2)]
    group = running("g", "s", {"p": ("prefill", {"a": 8}), "d": ("decode", {"b": 8})})
    answer = one(snapshot(nodes, [group]), pair("s", 1, 1, ratio={"prefill": 1, "decode": 1}))
    assert (PlanStatus.PLACED, 1) == (answer.status, len(answer.born))


def test_draining_ones_are_restored_before_anything_new() -> None:
    """Where more is wanted again, what drains returns."""
    group = running("g", "s", {"p": ("prefill", {"a": 8}), "d": ("decode", {"b": 8})}, {"d": "draining"})
    answer = one(snapshot([node("c/A/x/a"), node("c/A/x/b"), node("c/A/x/e")], [group]), pair("s", 1, 1))
    assert (PlanStatus.PLACED, PlanReason.RESTORED, {}) == (answer.status, answer.reason, dict(answer.taken))


def test_a_draining_one_replaces_a_lost_one() -> None:
    """A serving one of the group was lost: what drains there returns."""
    group = running("g", "s", {"p": ("prefill", {"a": 8}), "d": ("decode", {"b": 8}), "e": ("decode", {"e": 8})}, {"e": "draining"})
    nodes = [node("c/A/x/a"), node("c/A/x/b", state="lost"), node("c/A/x/e"), node("c/A/x/f")]
    asked = request("s", {"prefill": role(1), "decode": role(1, draining=1)}, ratio={"prefill": 1, "decode": 1})
    answer = one(snapshot(nodes, [group]), asked)
    assert (PlanReason.RESTORED, {}) == (answer.reason, dict(answer.taken))


def test_draining_is_a_ceiling() -> None:
    """Up to `draining` of the excess drains, the rest stops, and what is not ready stops at once."""
    members = {f"d{at}": ("decode", {f"n{at}": 8}) for at in range(5)}
    group = running("g", "s", members, {"d4": "starting"})
    view = snapshot([node(f"c/A/x/n{at}") for at in range(5)], [group])
    answer = one(view, request("s", {"decode": role(1, draining=2)}))
    states = {instance.id: instance.state.value for instance in answer.assignment[0].instances}
    assert {"d0": "draining", "d1": "draining", "d2": "stopping", "d3": "ready", "d4": "stopping"} == states
    assert (("d2", "d4"), PlanReason.RELEASED) == (answer.released, answer.reason)


def test_draining_is_never_refilled() -> None:
    """What drains already counts first; no one follows it."""
    members = {f"d{at}": ("decode", {f"n{at}": 8}) for at in range(3)}
    group = running("g", "s", members, {"d2": "draining"})
    view = snapshot([node(f"c/A/x/n{at}") for at in range(3)], [group])
    assert PlanStatus.UNCHANGED is one(view, request("s", {"decode": role(2, draining=2)})).status


def _two_groups(first: str, second: str) -> list[tuple[str, object]]:
    return [
        running("g1", "s", {"p1": ("prefill", {f"{first}-0": 8}), "d1": ("decode", {f"{first}-1": 8})}),
        running("g2", "s", {"p2": ("prefill", {f"{second}-0": 8}), "d2": ("decode", {f"{second}-1": 8})}),
    ]


def test_victims_free_the_rarest_pool_as_whole_units() -> None:
    """Prefill and decode of the group in the high pool go together."""
    view = snapshot(MIXED, _two_groups("c-low-l1-H20", "c-mix-h1-H20"))  # type: ignore[arg-type]  # pairs of service and group
    answer = one(view, pair("s", 1, 1, ratio={"prefill": 1, "decode": 1}))
    assert ("d2", "p2") == answer.released


def test_degraded_groups_go_first() -> None:
    """A degraded group in a low pool goes before a sound one in a high pool."""
    low = running("g1", "s", {"p1": ("prefill", {"c-low-l1-H20-0": 8}), "d1": ("decode", {"c-low-l1-H20-1": 8})}, degraded=True)
    high = running("g2", "s", {"p2": ("prefill", {"c-mix-h1-H20-0": 8}), "d2": ("decode", {"c-mix-h1-H20-1": 8})})
    assert ("d1", "p1") == one(snapshot(MIXED, [low, high]), pair("s", 1, 1, ratio={"prefill": 1, "decode": 1})).released


def test_a_role_outside_the_ratio_joins_a_group() -> None:
    """A router opens no group; it joins the one there is."""
    view = snapshot(pod("c/A/x", 4))
    roles = {"prefill": role(1), "decode": role(2), "router": role(1, 1)}
    answer = one(view, request("s", roles, ratio={"prefill": 1, "decode": 2}))
    assert (PlanStatus.PLACED, 1) == (answer.status, len(answer.assignment))
    alone = one(view, request("t", {"prefill": role(0), "decode": role(0), "router": role(1, 1)}, ratio={"prefill": 1, "decode": 2}))
    assert (PlanStatus.UNPLACED, {"router": 1}) == (alone.status, dict(alone.shortfall))


def test_dry_runs_come_last_and_hold_nothing() -> None:
    """A dry run of higher priority takes nothing from a real request, and two dry runs may answer with the same GPUs."""
    asked = [pair("a", 1, 2, dry_run=True, priority=9), pair("b", 1, 2), pair("c", 1, 2, dry_run=True)]
    answers = planned(snapshot(pod("c/A/x", 6)), *asked)
    assert [PlanStatus.PLACED] * 3 == [answer.status for answer in answers]
    assert answers[0].taken == answers[2].taken


def test_spread_keeps_a_role_apart_where_it_costs_nothing() -> None:
    """Two small decodes share a node without it, and do not with it."""
    view = snapshot(pod("c/A/x", 2))
    together = one(view, request("s", {"decode": role(2, 2)}))
    apart = one(view, request("s", {"decode": role(2, 2)}, spread=Spread.NODE))
    assert (1, 2) == (len(set(nodes_of(together))), len(set(nodes_of(apart))))


def test_a_moved_node_keeps_its_hold_and_degrades_the_group() -> None:
    """After a fleet change the group spans two s2: degraded, moved, nothing released."""
    group = running("g", "s", {"p": ("prefill", {"a": 8}), "d": ("decode", {"b": 8})})
    answer = one(snapshot([node("c/A/x/a"), node("c/B/y/b")], [group]), pair("s", 1, 1))
    assert (True, DegradedReason.MOVED, ()) == (answer.assignment[0].degraded, answer.assignment[0].degraded_reason, answer.released)


def test_fewest_s1_and_least_left_over() -> None:
    """One s1 before two, and the tighter one before the emptier."""
    view = snapshot([*pod("c/A/x", 6), *pod("c/A/y", 3), *pod("c/A/z", 2)])
    assert Domain(cluster="c", s2="A", s1="y") == one(view, pair("s", 1, 2)).assignment[0].domain


def test_a_failed_request_moves_an_equal_one_aside() -> None:
    """Repair: the flexible request sits where the other must go; both are placed in the end."""
    view = snapshot([*pod("c/A/x", 3), *pod("c/B/y", 2), *pod("c/B/y", 3, "L20")])
    flexible = request("f", {"prefill": role(1, 8, "H20"), "decode": role(1, 8, "H20", "L20")})
    rigid = request("r", {"prefill": role(1, 8, "L20"), "decode": role(2, 8, "H20")})
    assert [PlanStatus.PLACED] * 2 == [answer.status for answer in planned(view, flexible, rigid)]


def test_a_group_has_the_worst_pool_that_it_touches() -> None:
    """Two nodes in a medium pod and one in a high pod of the same s2: high."""
    view = snapshot([*pod("c/mix/m1", 2), *pod("c/mix/h1", 1), *pod("c/mix/h1", 1, "L20")])
    assert Pool.HIGH is one(view, pair("s", 1, 2)).assignment[0].pool


def test_among_equals_the_first_to_arrive_is_placed() -> None:
    """Two like requests and room for one: arrival decides, not the name or the place in the input."""
    late, early = planned(snapshot(pod("c/A/x", 3)), pair("a", 1, 2, arrival=2), pair("b", 1, 2, arrival=1))
    assert (PlanStatus.UNPLACED, PlanStatus.PLACED) == (late.status, early.status)
