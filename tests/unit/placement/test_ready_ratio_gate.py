"""The ready-ratio gate on one group planned at 1 prefill to 2 decode, tolerance 25 % unless said."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from heteroscale.contracts.placements import InstanceState
from heteroscale.placement import gate
from heteroscale.placement.inventory.entries import InstanceEntry
from support.gangs import instance

RATIO = ("prefill", "decode")
S = InstanceState


def some(role: str, ready: int, rest: int = 0, *, routed: bool = False, replacement: bool = False) -> dict[str, InstanceEntry]:
    """`ready` ready instances, the oldest first by name, and `rest` that still start."""
    states = [S.READY] * ready + [S.STARTING] * rest
    return {
        f"{role}{at}": msgspec.structs.replace(
            instance({f"{role}{at}": 8}, state=state),
            role=role,
            since_ms=1_000 + at,
            routable=routed and state is S.READY,
            replacement=replacement and state is S.STARTING,
        )
        for at, state in enumerate(states)
    }


def shown(*parts: dict[str, InstanceEntry], tolerance: float = 0.25, ratio: Sequence[str] = RATIO) -> dict[str, int]:
    """Routable instances per role."""
    group = {name: one for part in parts for name, one in part.items()}
    counts = dict.fromkeys(sorted({one.role for one in group.values()}), 0)
    for name in gate.routable(group, ratio, tolerance):
        counts[group[name].role] += 1
    return counts


@pytest.mark.parametrize(
    ("prefill", "decode", "expected"),
    [
        ((2, 0), (4, 0), {"prefill": 2, "decode": 4}),  # as planned
        ((2, 0), (3, 1), {"prefill": 1, "decode": 3}),  # 2 of 2 against 3 of 4: strays by a third
        ((4, 0), (7, 1), {"prefill": 4, "decode": 7}),  # by a seventh: inside the tolerance
        ((1, 1), (3, 1), {"prefill": 1, "decode": 2}),  # half of the prefill carries half of the decode, and a quarter more
        ((2, 2), (5, 3), {"prefill": 2, "decode": 5}),  # exactly 25 % is not more than 25 %
        ((0, 2), (4, 0), {"prefill": 0, "decode": 1}),  # never to zero
        ((2, 0), (0, 4), {"prefill": 1, "decode": 0}),
        ((0, 2), (0, 4), {"prefill": 0, "decode": 0}),
    ],
)
def test_the_excess_is_held_back(prefill: tuple[int, int], decode: tuple[int, int], expected: dict[str, int]) -> None:
    """Ready counts that stray from the planned ratio by more than the tolerance lose their excess, down to one."""
    assert expected == shown(some("prefill", *prefill), some("decode", *decode))


def test_the_newest_are_held_back() -> None:
    """Who was ready first is routed first."""
    group = {**some("prefill", 1, 1), **some("decode", 4)}
    assert {"prefill0", "decode0", "decode1"} == gate.routable(group, RATIO, 0.25)


def test_tolerance_is_the_width() -> None:
    """A wider one routes more, none routes the exact ratio."""
    parts = (some("prefill", 2, 2), some("decode", 8))
    assert [4, 5, 8] == [shown(*parts, tolerance=tolerance)["decode"] for tolerance in (0.0, 0.25, 1.0)]


def test_a_dead_peer_does_not_take_traffic_from_those_who_carry_it() -> None:
    """While a failed prefill is being replaced, routed decodes stay routed and newcomers wait."""
    prefill = some("prefill", 1, 1, routed=True, replacement=True)
    decode = some("decode", 4, routed=True)
    assert {"prefill": 1, "decode": 4} == shown(prefill, decode)
    newcomer = {"decode9": msgspec.structs.replace(decode["decode3"], routable=False, since_ms=9_000)}
    assert {"prefill": 1, "decode": 4} == shown(prefill, decode, newcomer)


def test_a_plan_that_changed_withdraws_carriers() -> None:
    """Without a death the excess is withdrawn although it is routed: the plan says what the ratio is to be."""
    assert {"prefill": 1, "decode": 2} == shown(some("prefill", 1, 1, routed=True), some("decode", 4, routed=True))


def test_roles_outside_the_ratio_are_not_gated() -> None:
    """A router is ready when it is ready; so is a service without a ratio."""
    router = some("router", 3)
    assert 3 == shown(some("prefill", 0, 2), some("decode", 4), router)["router"]
    assert {"prefill": 1, "decode": 4} == shown(some("prefill", 1, 1), some("decode", 4), ratio=())


def test_a_replica_made_of_parts_counts_when_all_parts_are_ready() -> None:
    """Parts of one replica are routed together or not at all."""
    decode = some("decode", 4)
    parts = {
        name: msgspec.structs.replace(one, part=part, replica=replica)
        for (name, one), part, replica in zip(decode.items(), ("attention", "ffn") * 2, (0, 0, 1, 1), strict=True)
    }
    half = {**parts, "decode3": msgspec.structs.replace(parts["decode3"], state=S.STARTING)}
    assert {"decode": 4, "prefill": 1} == shown(some("prefill", 1), parts)
    assert {"decode": 2, "prefill": 1} == shown(some("prefill", 1), half)


@pytest.mark.parametrize("state", [S.RESERVED, S.STARTING, S.DRAINING, S.STOPPING, S.FAILED])
def test_only_ready_instances_are_routed(state: InstanceState) -> None:
    """No other state is ever shown to discovery."""
    group = {"d": msgspec.structs.replace(instance({"n": 8}, state=state), routable=True)}
    assert frozenset() == gate.routable(group, RATIO, 0.25)
