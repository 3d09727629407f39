"""Contended cycles: the order of equals, and parts that come early, are chosen so that most GPUs are placed."""

from __future__ import annotations

import pytest

from heteroscale.contracts.spec import Partial
from heteroscale.placement.planning import orders, planner
from heteroscale.placement.planning.model import Planned, PlanStatus
from heteroscale.placement.planning.orders import Order
from support.plans import check_sound, pair, pod, request, role, snapshot


def _placed(answers: list[Planned]) -> dict[str, int]:
    return {one.service: sum(one.taken.values()) for one in answers}


def test_two_services_share_what_neither_order_could_fill() -> None:
    """Seven nodes: six for one leave one of no use to the other; three and four use all of them."""
    view = snapshot(pod("c/b/p", 7))
    asked = [pair("a", 2, 4), pair("b", 3, 3, ratio={"prefill": 1, "decode": 1})]
    answers = planner.plan(view, asked)
    check_sound(view, asked, answers)
    assert {"a": 24, "b": 32} == _placed(answers)
    assert [PlanStatus.PARTIAL, PlanStatus.PARTIAL] == [one.status for one in answers]


def test_a_higher_priority_gives_nothing_up_for_a_fuller_fleet() -> None:
    """Trading happens among equals only: the same fleet, and the first service is placed whole."""
    view = snapshot(pod("c/b/p", 7))
    asked = [pair("a", 2, 4, priority=200), pair("b", 3, 3, ratio={"prefill": 1, "decode": 1}, priority=100)]
    assert 48 == _placed(planner.plan(view, asked))["a"]


def test_whole_or_nothing_stays_whole() -> None:
    """`partial: none` is never placed in parts for the sake of another."""
    view = snapshot(pod("c/b/p", 7))
    asked = [pair("a", 2, 4, partial=Partial.NONE), pair("b", 3, 3, ratio={"prefill": 1, "decode": 1})]
    assert _placed(planner.plan(view, asked))["a"] in (0, 48)


def test_a_service_that_came_in_parts_is_one_answer() -> None:
    """What came early and what came later are in one assignment, explained against all that was asked."""
    fleet = [*pod("c/b0/p0", 3), *pod("c/b0/p1", 2, "L20"), *pod("c/b1/p0", 2)]
    asked = [
        request("a", {"prefill": role(2, 8, "H20", "L20"), "decode": role(2, 8, "H20", "L20")}, ratio={"prefill": 1, "decode": 1}),
        pair("b", 1, 2),
    ]
    view = snapshot(fleet)
    answers = planner.plan(view, asked)
    check_sound(view, asked, answers)
    assert {"a": 32, "b": 24} == _placed(answers)
    assert {"prefill": 2, "decode": 2} == answers[0].explain.needed


def test_nothing_is_tried_again_when_nothing_failed() -> None:
    """A cycle in which everybody got everything has one order."""
    answers = planner.plan(snapshot(pod("c/b/p", 9)), [pair("a", 1, 2), pair("b", 1, 2)])
    assert [] == orders.others(answers, {"a": 1, "b": 1})


@pytest.mark.parametrize(("services", "most"), [(2, 3 + 2 * 2), (9, 2), (33, 0)])
def test_the_number_of_orders_is_bounded(services: int, most: int) -> None:
    """Small cycles are searched, large ones hardly, the largest not at all."""
    asked = [pair(f"s{at:02}", 2, 4) for at in range(services)]
    answers = planner.plan(snapshot(pod("c/b/p", 6)), asked)
    tried = orders.others(answers, {one.service: 2 for one in answers})
    assert len(tried) <= most
    assert len(tried) == len(set(tried))
    assert all(isinstance(one, Order) for one in tried)
