"""An inventory from placements.v1 and fleet.v1: what is held, what is quarantined, what the next command may assume."""

from __future__ import annotations

import msgspec
import pytest

from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.fleet import NodeState
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.placement import check, gate, lineage, rebuild, words
from heteroscale.placement.inventory.entries import Cause, FleetImage, Quarantine, Standing
from heteroscale.placement.nodes import NodeChange
from heteroscale.placement.rebuild import Remains
from support.gangs import node
from support.placement_driver import Driver, actuation, command

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


def test_what_failed_without_word_of_its_end_keeps_its_node_out() -> None:
    """NO-OVERLAP: the node is back, but nobody said that the process is gone, so a rebuild does not take its GPUs for free."""
    driver = played()
    at = next(iter(driver.instances()[0].nodes))
    driver.cycle(nodes=[node(at, state=NodeState.LOST)])
    driver.cycle(nodes=[node(at)])
    assert Standing.QUARANTINED is driver.image().nodes[at].standing
    image, _ = rebuilt(driver)
    assert (Standing.QUARANTINED, Quarantine.BACK_FROM_LOST, 0) == (
        (back := image.nodes[at]).standing,
        back.quarantine,
        back.free,
    )
    (failed,) = [name for name, one in image.instances.items() if one.state is S.FAILED]
    acknowledged, _ = rebuilt(driver, ended={failed})
    assert (Standing.READY, 8) == (acknowledged.nodes[at].standing, acknowledged.nodes[at].free)


def test_a_rebuild_takes_no_traffic_from_those_who_carry_it() -> None:
    """Whether a peer died is not on the log, so what waits to start counts as a replacement: the gate holds back newcomers only."""
    driver = played()
    prefill = next(one for one in driver.instances() if one.role == "prefill")
    driver.acknowledge(K.FAILED, prefill.id)
    assert 2 == sum(one.routable for one in driver.instances())
    image, _ = rebuilt(driver)
    group = {name: one for name, one in image.instances.items() if one.state is not S.FAILED}
    assert 2 == len(gate.routable(group, ("prefill", "decode"), 0.25))


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ([(K.READY, 1), (K.STOPPED, 2)], K.STOPPED),
        ([(K.STOPPED, 2), (K.READY, 1)], K.STOPPED),
        ([(K.STOPPED, 2), (K.READY, 2)], K.STOPPED),
        ([(K.READY, 2), (K.STOPPED, 2)], K.STOPPED),
        ([(K.STOPPED, 1), (K.READY, 2)], K.READY),
    ],
)
def test_a_repeated_word_never_raises_the_dead(said: list[tuple[ActuationKind, int]], counts: ActuationKind) -> None:
    """A `ready` that comes again after `stopped` is no ghost; an adopted instance that came back under its name is."""
    found: Actuation | None = None
    for kind, at_ms in said:
        found = words.last(actuation("i", kind, at_ms=at_ms), found)
    assert found is not None
    assert counts is found.kind


def test_a_server_that_started_anew_keeps_everything_under_another_generation() -> None:
    """Nothing but the generation changes; ghosts are listed and quarantined as in a rebuild."""
    driver = played()
    old = driver.newest()
    ghost = old.groups[0].instances[0]
    (at,) = ghost.nodes
    driver.acknowledge(K.STOPPED, ghost.id)
    before = driver.image()
    assert msgspec.structs.replace(before, gen=7) == rebuild.renewed(before, 7, {})
    image = rebuild.renewed(before, 7, {ghost.id: old})
    assert [] == check.inventory(image)
    assert (Standing.QUARANTINED, Cause.GHOST) == (image.nodes[at].standing, image.instances[ghost.id].cause)


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
    heard = {name: actuation(name, K.READY) for name in (ghost.id, *listed)} | {"gone": actuation("gone", K.STOPPED)}
    assert [ghost.id] == words.ghosts(heard, listed)
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


@pytest.mark.parametrize("nodes", [6, 4, 3])
def test_who_stands_in_for_whom_comes_back_from_the_history(nodes: int) -> None:
    """After a rebuild an overdue start is not replaced twice, and its replacement waits for its end, with room for all, some or none."""
    driver = Driver(*(node(f"n{at}") for at in range(nodes)))
    driver.cycle(command())
    late_ms = driver.state.services["chat"].entry.command.start_deadline_ms
    driver.cycle(command(after_ms=late_ms))
    driver.cycle(command(after_ms=late_ms + 1))
    before = {name: (one.replaces, one.cause) for name, one in driver.image().instances.items()}
    assert 3 == sum(cause is Cause.OVERDUE for _, cause in before.values())
    image, _ = rebuilt(driver, lineage=lineage.of([*driver.written, *driver.written]))
    after = {name: (one.replaces, one.cause) for name, one in image.instances.items()}
    assert before == after
    blind, _ = rebuilt(driver)
    assert before != {name: (one.replaces, one.cause) for name, one in blind.instances.items()}
