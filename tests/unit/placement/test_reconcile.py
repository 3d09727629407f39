"""Inventory, placements.v1 and actuations.v1 compared: every way of disagreeing is named, and only those."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.fleet import NodeState
from heteroscale.contracts.placements import Placement
from heteroscale.placement import reconcile
from heteroscale.placement.inventory.entries import InstanceEntry
from heteroscale.placement.reconcile import Kind
from support.gangs import node
from support.placement_driver import Driver, actuation, command

K = ActuationKind


def played() -> Driver:
    """One service that has converged."""
    driver = Driver(*(node(f"n{at}") for at in range(6)))
    driver.cycle(command())
    driver.acknowledge(K.READY)
    return driver


def found(driver: Driver, newest: Mapping[str, Placement] | None = None, *heard: Actuation) -> list[tuple[Kind, str]]:
    """Kinds and subjects."""
    log = {"chat": driver.newest()} if newest is None else newest
    return [(one.kind, one.subject) for one in reconcile.compare(driver.state, log, {word.instance: word for word in heard})]


def test_nothing_is_found_where_all_agree() -> None:
    """Whatever the actuators last said of listed instances."""
    driver = played()
    assert [] == found(driver, None, *(actuation(one.id, K.READY) for one in driver.instances()))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"seq": 1}, Kind.BEHIND),
        ({"gen": 0}, Kind.BEHIND),
        ({"seq": 99}, Kind.AHEAD),
        ({"gen": 2}, Kind.AHEAD),
        ({"groups": []}, Kind.DIFFERS),
    ],
)
def test_the_log_and_the_inventory(changes: dict[str, object], kind: Kind) -> None:
    """Older, newer, or the same (gen, seq) with other groups."""
    driver = played()
    assert [(kind, "chat")] == found(driver, {"chat": msgspec.structs.replace(driver.newest(), **changes)})


def test_a_service_that_the_log_has_never_seen() -> None:
    """Is behind."""
    assert [(Kind.BEHIND, "chat")] == found(played(), {})


@pytest.mark.parametrize("kind", [K.STOPPED, K.FAILED])
def test_an_end_that_nobody_took_in(kind: ActuationKind) -> None:
    """The instance is listed as ready although no process is left."""
    driver = played()
    one = driver.instances()[0]
    assert [(Kind.UNHEARD, one.id)] == found(driver, None, actuation(one.id, kind))


def test_an_end_of_an_earlier_life_says_nothing() -> None:
    """An adopted instance may come back under its old name: word from before it was brought in is not about it."""
    driver = played()
    one = driver.instances()[0]
    assert [] == found(driver, None, actuation(one.id, K.STOPPED, at_ms=driver.state.now_ms - 1))


def test_an_end_that_was_taken_in_is_not_taken_in_again() -> None:
    """A failed instance that is still listed, waiting for its replacement, was heard; one that failed with its node was not."""
    driver = Driver(*(node(f"n{at}") for at in range(3)))
    driver.cycle(command())
    driver.acknowledge(K.READY)
    one = driver.instances()[0]
    (at,) = one.nodes
    driver.cycle(nodes=[node(at, state=NodeState.LOST)])
    assert [(Kind.UNHEARD, one.id)] == found(driver, None, actuation(one.id, K.STOPPED))
    driver.acknowledge(K.STOPPED, one.id)
    assert [] == found(driver, None, actuation(one.id, K.STOPPED))


def test_a_process_that_nobody_lists() -> None:
    """Is a ghost, unless the last that was heard of it is its end."""
    driver = played()
    assert [(Kind.GHOST, "x")] == found(driver, None, actuation("x", K.READY), actuation("y", K.STOPPED))


def test_the_workers_idea_is_compared_whole() -> None:
    """A single changed field of an instance, or another revision, and it is not the same."""
    driver = played()
    image = driver.image()
    assert reconcile.same(driver.state, image)
    assert not reconcile.same(driver.state, msgspec.structs.replace(image, rev=image.rev + 1))
    (name, one), *_ = image.instances.items()
    other: dict[str, InstanceEntry] = {**image.instances, name: msgspec.structs.replace(one, routable=not one.routable)}
    assert not reconcile.same(driver.state, msgspec.structs.replace(image, instances=other))
