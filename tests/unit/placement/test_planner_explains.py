"""What an answer says about a request that was not placed."""

from __future__ import annotations

from heteroscale.contracts.placements import Domain
from heteroscale.placement.planning import planner
from heteroscale.placement.planning.model import Planned, PlanReason, PlanStatus, Request, Snapshot
from support.plans import check_sound, pod, request, role, running, snapshot


def one(view: Snapshot, asked: Request) -> Planned:
    """The one answer, checked by the referee."""
    answers = planner.plan(view, [asked])
    check_sound(view, [asked], answers)
    return answers[0]


def test_the_best_domain_is_one_that_could_hold_it() -> None:
    """Only the mixed pod could ever hold the unit: it is named, with who holds it, though the other has more free."""
    busy = running("g", "x", {"i": ("prefill", {"c-mix-h-H20-0": 8}), "j": ("decode", {"c-mix-h-H20-1": 8})})
    asked = request("s", {"prefill": role(1, 8, "L20"), "decode": role(2, 8, "H20")})
    answer = one(snapshot([*pod("c/mix/l", 2, "L20"), *pod("c/mix/h", 2), *pod("c/h20/a", 3)], [busy]), asked)
    assert (Domain(cluster="c", s2="mix"), ["x"]) == (answer.explain.best_domain, answer.explain.blocked_by)
    assert {"prefill": 2, "decode": 0} == dict(answer.explain.available)


def test_a_gpu_type_that_the_fleet_has_not_is_named() -> None:
    """The sentence says who asks for what, and which types there are; no domain is the best."""
    answer = one(
        snapshot([*pod("c/A/x", 2), *pod("c/A/y", 2, "L20")]), request("s", {"prefill": role(1, 8, "B200"), "decode": role(1, 8, "H20")})
    )
    assert (PlanStatus.UNPLACED, PlanReason.NO_CAPACITY, None) == (answer.status, answer.reason, answer.explain.best_domain)
    assert "prefill asks for B200, and the fleet has H20, L20 only" in answer.explain.text
