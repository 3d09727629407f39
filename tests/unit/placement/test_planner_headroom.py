"""Headroom: units that fit, by domain and pool class, are what the planner could place."""

from __future__ import annotations

import pytest

from heteroscale.contracts.placements import Pool
from heteroscale.placement.planning import headroom, planner
from heteroscale.placement.planning.model import PlanStatus
from support.plans import pair, pod, request, role, snapshot

FLEET = [*pod("c/A/a1", 4), *pod("c/A/a2", 2), *pod("c/B/b1", 2), *pod("c/B/b2", 3), *pod("c/B/b2", 2, "L20")]


def test_every_domain_by_class() -> None:
    """A is low: six nodes, two units; B: two nodes in a medium pod make none, with the three of a high one there is one."""
    found = headroom.headroom(snapshot(FLEET), pair("s", 1, 2))
    assert [("A", Pool.LOW, 2), ("B", Pool.HIGH, 1)] == [(one.domain.s2, one.pool, one.units) for one in found]


def test_cheap_pools_are_counted_before_dear_ones() -> None:
    """With halves of nodes the medium pod alone holds a unit; the high one adds what is left."""
    found = headroom.headroom(snapshot(FLEET), pair("s", 1, 2, gpus=4))
    assert [("A", Pool.LOW, 4), ("B", Pool.MEDIUM, 1), ("B", Pool.HIGH, 2)] == [(one.domain.s2, one.pool, one.units) for one in found]


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("level", ["s1", "s2", "cluster"])
def test_the_planner_places_exactly_so_many(gpus: int, level: str) -> None:
    """All of the headroom is placed in one cycle, and not a unit more."""
    view = snapshot(FLEET, used={"c-A-a1-H20-0": 4, "c-B-b2-H20-1": 6})
    units = sum(one.units for one in headroom.headroom(view, pair("s", 1, 2, gpus=gpus, level=level)))
    assert units > 0
    [fits] = planner.plan(view, [pair("s", units, 2 * units, gpus=gpus, level=level)])
    assert PlanStatus.PLACED is fits.status
    [more] = planner.plan(view, [pair("s", units + 1, 2 * units + 2, gpus=gpus, level=level)])
    assert {"prefill": 1, "decode": 2} == more.shortfall


def test_no_room_is_no_line() -> None:
    """A type that the fleet lacks, a full fleet and a service without a ratio fit nowhere."""
    strange = request("s", {"prefill": role(1, 8, "B200"), "decode": role(2, 8, "B200")})
    assert [] == headroom.headroom(snapshot(FLEET), strange)
    assert [] == headroom.headroom(snapshot(pod("c/A/a1", 1), used={"c-A-a1-H20-0": 8}), pair("s", 1, 2))
    assert [] == headroom.headroom(snapshot(FLEET), pair("s", 0, 0, ratio=None))
