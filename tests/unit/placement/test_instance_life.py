"""The instance life, as a table: every state against every acknowledgement, orders of time, and lost nodes."""

from __future__ import annotations

import msgspec
import pytest

from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.placements import InstanceState
from heteroscale.placement import life
from heteroscale.placement.inventory.entries import Cause, InstanceEntry
from heteroscale.placement.life import Why
from support.gangs import instance

NOW_MS = 1_000_000
S = InstanceState
K = ActuationKind


def entry(state: InstanceState, **changes: object) -> InstanceEntry:
    """An instance on two nodes."""
    return msgspec.structs.replace(instance({"n1": 8, "n2": 8}, state=state), **changes)


@pytest.mark.parametrize(
    ("state", "kind", "after"),
    [
        (S.RESERVED, K.STARTING, S.STARTING),
        (S.RESERVED, K.READY, S.READY),
        (S.STARTING, K.READY, S.READY),
    ],
)
def test_acknowledgements_move_forward(state: InstanceState, kind: ActuationKind, after: InstanceState) -> None:
    """A step forward is taken, from now on, and holds what it held."""
    before = entry(state)
    step = life.acknowledge("i1", before, kind, NOW_MS)
    assert step is not None
    assert step.after is not None
    assert (after, NOW_MS, before.held, before.reserved_ms) == (
        step.after.state,
        step.after.since_ms,
        step.after.held,
        step.after.reserved_ms,
    )
    assert {} == step.freed


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        *((state, K.STARTING) for state in S if state is not S.RESERVED),
        *((state, K.READY) for state in S if state not in (S.RESERVED, S.STARTING)),
    ],
)
def test_late_and_repeated_acknowledgements_change_nothing(state: InstanceState, kind: ActuationKind) -> None:
    """Nothing moves back, and nothing that drains or stops becomes ready by an acknowledgement."""
    assert life.acknowledge("i1", entry(state), kind, NOW_MS) is None


@pytest.mark.parametrize("state", [state for state in S if state is not S.FAILED])
def test_failed_frees_and_stays_to_be_replaced(state: InstanceState) -> None:
    """From any state: failed, nothing held, listed until the planner has seen it."""
    step = life.acknowledge("i1", entry(state, routable=True), K.FAILED, NOW_MS)
    assert step is not None
    assert step.after is not None
    assert (S.FAILED, {}, None, False) == (step.after.state, step.after.held, step.after.cause, step.after.routable)
    assert {"n1": 8, "n2": 8} == step.freed


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (S.RESERVED, Why.STOPPED_UNASKED),
        (S.STARTING, Why.STOPPED_UNASKED),
        (S.READY, Why.STOPPED_UNASKED),
        (S.DRAINING, Why.STOPPED),
        (S.STOPPING, Why.STOPPED),
    ],
)
def test_stopped_is_gone_and_says_whether_it_was_asked_for(state: InstanceState, why: Why) -> None:
    """A person stopped what nobody ordered to stop; either way no process is left."""
    step = life.acknowledge("i1", entry(state), K.STOPPED, NOW_MS)
    assert step is not None
    assert (None, why, {"n1": 8, "n2": 8}) == (step.after, step.why, step.freed)


@pytest.mark.parametrize("kind", [K.FAILED, K.STOPPED])
def test_what_a_lost_node_held_comes_back_with_an_acknowledgement(kind: ActuationKind) -> None:
    """Once: the second one says nothing new."""
    lost = entry(S.FAILED, cause=Cause.NODE_LOST)
    step = life.acknowledge("i1", lost, kind, NOW_MS)
    assert step is not None
    assert step.after is not None
    assert ({"n1": 8, "n2": 8}, None) == (step.freed, step.after.cause)
    assert life.acknowledge("i1", step.after, kind, NOW_MS) is None


def test_a_lost_node_fails_its_instances_and_keeps_their_gpus() -> None:
    """One node of two is enough; what is failed already stays as it is."""
    step = life.lose_node("i1", entry(S.READY, routable=True), {"n2"}, NOW_MS)
    assert step is not None
    assert step.after is not None
    assert (S.FAILED, Cause.NODE_LOST, False, {}) == (step.after.state, step.after.cause, step.after.routable, step.freed)
    assert life.lose_node("i1", step.after, {"n2"}, NOW_MS) is None
    assert life.lose_node("i1", entry(S.READY), {"n9"}, NOW_MS) is None


@pytest.mark.parametrize(("waited_ms", "freed"), [(299_999, {}), (300_000, {"n2": 8})])
def test_the_lease_of_a_lost_node_frees_only_that_node(waited_ms: int, freed: dict[str, int]) -> None:
    """After 300 s of being lost, and not on the other node, where a process may still run."""
    lost = entry(S.FAILED, cause=Cause.NODE_LOST, since_ms=NOW_MS)
    step = life.expire("i1", lost, {"n2"}, NOW_MS + waited_ms)
    assert freed == (step.freed if step is not None else {})
    if step is not None and step.after is not None:
        assert life.expire("i1", step.after, {"n2"}, NOW_MS + waited_ms) is None


@pytest.mark.parametrize("state", [S.RESERVED, S.STARTING])
def test_the_start_deadline_counts_from_the_reservation(state: InstanceState) -> None:
    """Reaching `starting` does not restart it; then the instance is to stop and still holds its GPUs."""
    slow = entry(state, reserved_ms=NOW_MS, since_ms=NOW_MS + 500)
    assert life.overdue("i1", slow, 1_000, NOW_MS + 999, ()) is None
    step = life.overdue("i1", slow, 1_000, NOW_MS + 1_000, ())
    assert step is not None
    assert step.after is not None
    assert (S.STOPPING, Cause.OVERDUE, {}) == (step.after.state, step.after.cause, step.freed)


@pytest.mark.parametrize("state", [S.READY, S.DRAINING, S.STOPPING, S.FAILED])
def test_nothing_else_is_overdue(state: InstanceState) -> None:
    """Only what has not started can miss its start."""
    assert life.overdue("i1", entry(state, reserved_ms=0), 1, NOW_MS, ()) is None


def test_a_replacement_waits_for_word_of_what_it_replaces() -> None:
    """One replacement an overdue instance, until `stopped` or `failed` came for it."""
    second = entry(S.STARTING, reserved_ms=0, replaces="i0")
    assert life.overdue("i1", second, 1, NOW_MS, {"i0", "i1"}) is None
    assert life.overdue("i1", second, 1, NOW_MS, {"i1"}) is not None
