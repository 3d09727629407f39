"""An inventory from placements.v1 and fleet.v1: what is held, what is quarantined, what the next command may assume."""

from __future__ import annotations

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.fleet import NodeState
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.placement import check, rebuild
from heteroscale.placement.inventory.entries import Cause, FleetImage, Quarantine, Standing
from heteroscale.placement.nodes import NodeChange
from heteroscale.placement.rebuild import Remains
from support.gangs import node
from support.placement_driver import Driver, command

S = InstanceState
K = ActuationKind


def played(count: int = 6) -> Driver:
    """One service that has converged."""
    driver = Driver(*(node(f"n{at}") for at in range(count)))
    driver.cycle(command())
    driver.acknowledge(K.READY)
    return driver


def records(driver: Driver) -> dict[str, NodeChange]:
    """The fleet as fleet.v1 has it."""
    return {name: NodeChange(node=name, record=entry.record, revision=entry.revision) for name, entry in driver.state.nodes.items()}


def rebuilt(driver: Driver, **changes: object) -> tuple[FleetImage, Remains]:
    """What comes back from the newest Placements alone; all invariants hold."""
    newest = {one.service: one for one in driver.written}
    remains = Remains(fleet="default", gen=2, placements=newest, records=records(driver), commands={"chat": command()})
    for name, value in changes.items():
        object.__setattr__(remains, name, value)
    image = rebuild.image(remains)
    assert [] == check.inventory(image)
    return image, remains


def test_what_was_reserved_is_reserved() -> None:
    """Instances, groups, accounts and seq come back as they were; only the generation is new."""
    driver = played()
    before = driver.image()
    image, _ = rebuilt(driver)
    assert (2, before.now_ms) == (image.gen, image.now_ms)
    assert {name: entry.free for name, entry in before.nodes.items()} == {name: entry.free for name, entry in image.nodes.items()}
    assert {name: (one.nodes, one.held, one.state, one.routable) for name, one in before.instances.items()} == {
        name: (one.nodes, one.held, one.state, one.routable) for name, one in image.instances.items()
    }
    assert before.services == image.services


def test_all_assignments_are_said_again_under_the_new_generation() -> None:
    """Same groups, same seq, no changes; above all that was on the log."""
    driver = played()
    image, remains = rebuilt(driver)
    ((service, payload),) = rebuild.republished(image, remains)
    again = codec.decode(Placement, payload)
    last = driver.newest()
    assert ("chat", 2, last.seq, last.groups, []) == (service, again.gen, again.seq, again.groups, again.changes)


def test_without_its_command_a_service_asks_for_what_it_has() -> None:
    """Below any real command, so that the next affirmation says more."""
    image, _ = rebuilt(played(), commands={})
    entry = image.services["chat"]
    assert ({"decode": 2, "prefill": 1}, 0) == ({role: one.replicas for role, one in entry.command.roles.items()}, entry.command.at_ms)


def test_what_a_person_stopped_stays_stopped() -> None:
    """Neither running nor missing: it was withdrawn."""
    driver = played()
    gone = next(one for one in driver.instances() if one.role == "decode")
    driver.acknowledge(K.STOPPED, gone.id)
    assert {"decode": 1} == rebuilt(driver)[0].services["chat"].withdrawn


def test_what_failed_with_a_lost_node_still_holds_it() -> None:
    """The lease goes on from when it failed."""
    driver = played()
    lost = next(iter(driver.instances()[0].nodes))
    driver.cycle(nodes=[node(lost, state=NodeState.LOST)])
    image, _ = rebuilt(driver)
    (failed,) = [one for one in image.instances.values() if one.state is S.FAILED]
    assert ({lost: 8}, Cause.NODE_LOST, driver.state.now_ms) == (failed.held, failed.cause, failed.since_ms)


def test_a_held_node_that_fleet_v1_has_forgotten_is_kept_as_removed() -> None:
    """As large as what is held; it takes nothing."""
    driver = played()
    gone = next(iter(driver.instances()[0].nodes))
    rest = {name: change for name, change in records(driver).items() if name != gone}
    image, _ = rebuilt(driver, records=rest)
    assert (Standing.REMOVED, 8, 0) == (image.nodes[gone].standing, image.nodes[gone].record.gpus, image.nodes[gone].free)


def test_who_was_last_heard_to_run_and_is_listed_nowhere_quarantines_its_node() -> None:
    """Until word of it comes: nothing that may run is taken for free."""
    driver = played()
    old = driver.newest()
    ghost = old.groups[0].instances[0]
    (at,) = ghost.nodes
    driver.acknowledge(K.STOPPED, ghost.id)
    listed = [one.id for one in driver.instances()]
    words = {ghost.id: K.READY, "gone": K.STOPPED, **dict.fromkeys(listed, K.READY)}
    assert [ghost.id] == rebuild.ghosts(words, [driver.newest()])
    image, _ = rebuilt(driver, ghosts={ghost.id: old})
    assert (Standing.QUARANTINED, Quarantine.DISAGREES) == (image.nodes[at].standing, image.nodes[at].quarantine)
    assert (S.FAILED, {}, Cause.GHOST) == ((one := image.instances[ghost.id]).state, one.held, one.cause)


def test_adopted_gpus_are_not_used_and_held_at_once() -> None:
    """A record that still calls them used does not make more of them than there are."""
    driver = played(3)
    full = {
        name: msgspec.structs.replace(change, record=node(name, used=8) if change.record is not None else None)
        for name, change in records(driver).items()
    }
    image, _ = rebuilt(driver, records=full)
    assert {(0, 0)} == {(entry.free, entry.used) for entry in image.nodes.values()}
