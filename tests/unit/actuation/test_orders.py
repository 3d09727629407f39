"""What an assignment asks of an actuator."""

from __future__ import annotations

import pytest

from heteroscale.actuation import orders
from heteroscale.actuation.orders import Order
from heteroscale.contracts.placements import InstanceState
from support import builders


@pytest.mark.parametrize(
    ("state", "routable", "expected"),
    [
        (InstanceState.RESERVED, False, Order.START),
        (InstanceState.STARTING, False, Order.START),
        (InstanceState.READY, True, Order.RUN),
        (InstanceState.READY, False, Order.HOLD),
        (InstanceState.DRAINING, True, Order.DRAIN),
        (InstanceState.STOPPING, False, Order.STOP),
        (InstanceState.FAILED, False, Order.NONE),
    ],
)
def test_every_state_has_its_order(state: InstanceState, *, routable: bool, expected: Order) -> None:
    """An instance's order follows from its state, and for a ready one from the discovery verdict."""
    instance = builders.instance(state=state, routable=routable)
    assert expected is orders.order_of(instance)


def test_only_changed_orders_are_listed_and_the_gone_are_named() -> None:
    """An instance whose order stays is left out; a new one and one that vanished while it had an order are in, sorted by id."""
    before = builders.placement(
        "chat",
        builders.instance("a", state=InstanceState.RESERVED),
        builders.instance("b", state=InstanceState.STOPPING),
        builders.instance("c", state=InstanceState.FAILED),
    )
    after = builders.placement("chat", builders.instance("a", state=InstanceState.STARTING), builders.instance("d"), seq=2)
    assert [("b", Order.NONE), ("d", Order.START)] == [(task.instance.id, task.order) for task in orders.changed(before, after)]


def test_a_placement_is_newer_by_generation_then_sequence() -> None:
    """(gen, seq) orders; an equal pair is a repetition; a dry-run answer assigns nothing."""
    known = builders.placement(seq=5, gen=2)
    assert orders.is_newer_placement(known, None)
    assert orders.is_newer_placement(builders.placement(seq=1, gen=3), known)
    assert orders.is_newer_placement(builders.placement(seq=6, gen=2), known)
    assert not orders.is_newer_placement(builders.placement(seq=5, gen=2), known)
    assert not orders.is_newer_placement(builders.placement(seq=9, gen=1), known)
    assert not orders.is_newer_placement(builders.placement(seq=None), None)


def test_a_command_is_newer_by_revision_then_time() -> None:
    """An affirmation comes through by its time; an older revision never does, whatever its time; a dry run never."""
    known = builders.command(revision=3, at_ms=1_000)
    assert orders.is_newer_command(builders.command(revision=3, at_ms=2_000), known)
    assert orders.is_newer_command(builders.command(revision=4, at_ms=500), known)
    assert not orders.is_newer_command(builders.command(revision=2, at_ms=9_000), known)
    assert not orders.is_newer_command(builders.command(revision=3, at_ms=1_000), known)
    assert not orders.is_newer_command(builders.command(revision=9, at_ms=9_000, dry_run=True), known)
