"""Nodes after fleet records: standing, accounts, quarantine, removal."""

from __future__ import annotations

import msgspec
import pytest

from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.contracts.placements import InstanceState
from heteroscale.placement import nodes
from heteroscale.placement.inventory.entries import Cause, InstanceEntry, NodeEntry, Quarantine, Standing
from heteroscale.placement.nodes import NodeChange, Settled
from support.gangs import instance, node, node_entry


def after(entry: NodeEntry | None, record: FleetNode | None, *instances: InstanceEntry, revision: int = 5) -> Settled:
    """One record on one node."""
    known = {} if entry is None else {"n1": entry}
    return nodes.settle(known, [NodeChange(node="n1", record=record, revision=revision)], instances)


def lost_with(cause: Cause | None = Cause.NODE_LOST) -> InstanceEntry:
    """An instance that failed with n1."""
    return msgspec.structs.replace(instance({"n1": 8}, state=InstanceState.FAILED), cause=cause)


def test_a_new_node_has_what_is_not_used() -> None:
    """Free is what the record says less what others use."""
    assert {"n1": node_entry(node("n1", used=3), 5)} == dict(after(None, node("n1", used=3)).nodes)
    assert 5 == after(None, node("n1", used=3)).nodes["n1"].free


def test_an_older_record_changes_nothing() -> None:
    """A record that was included already, or precedes it, is not applied again."""
    assert not after(node_entry(node("n1"), 5), node("n1", used=8), revision=5)


@pytest.mark.parametrize(
    ("free", "used", "declared", "expected"),
    [
        (8, 0, 2, (6, 2)),  # a stranger came
        (2, 2, 2, (2, 2)),  # four are held; the record repeats itself
        (4, 0, 4, (4, 0)),  # the four in use were adopted, and are not counted twice
        (4, 0, 0, (4, 0)),  # the importer knows of the adoption by now
        (0, 0, 4, (-4, 4)),  # a stranger on GPUs that are held: over-committed, and it shows
    ],
)
def test_accounts_add_up_after_every_record(free: int, used: int, declared: int, expected: tuple[int, int]) -> None:
    """Free + held + used are all GPUs, with what was adopted since the last record taken into account."""
    before_declared = 0 if (free, used) in {(8, 0), (0, 0)} else 2 if used else 4
    entry = NodeEntry(record=node("n1", used=before_declared), revision=1, standing=Standing.READY, free=free, used=used)
    held = nodes.held(entry)
    found = after(entry, node("n1", used=declared)).nodes["n1"]
    assert expected == (found.free, found.used)
    assert held == nodes.held(found)


def test_a_node_back_from_lost_waits_for_word_of_all_it_held() -> None:
    """Quarantined until the last instance that failed with it was acknowledged, then ready."""
    lost = node_entry(node("n1", state=NodeState.LOST), 1)
    back = after(lost, node("n1"), lost_with()).nodes["n1"]
    assert (Standing.QUARANTINED, Quarantine.BACK_FROM_LOST) == (back.standing, back.quarantine)
    assert not nodes.settle({"n1": back}, [], [lost_with()])
    freed = nodes.settle({"n1": back}, [], [lost_with(cause=None)]).nodes["n1"]
    assert (Standing.READY, None) == (freed.standing, freed.quarantine)


def test_a_node_back_from_lost_with_nothing_to_wait_for_is_ready() -> None:
    """Nothing failed with it."""
    assert Standing.READY is after(node_entry(node("n1", state=NodeState.LOST), 1), node("n1")).nodes["n1"].standing


def test_a_conflict_is_lifted_by_a_person() -> None:
    """Another `ready` says nothing new; cordon and uncordon does."""
    entry = nodes.quarantined(node_entry(node("n1"), 1), Quarantine.ADOPTION_CONFLICT)
    repeated = after(entry, node("n1")).nodes["n1"]
    assert Standing.QUARANTINED is repeated.standing
    cordoned = after(repeated, node("n1", state=NodeState.CORDONED), revision=6).nodes["n1"]
    assert Standing.CORDONED is cordoned.standing
    assert Standing.READY is after(cordoned, node("n1"), revision=7).nodes["n1"].standing


def test_a_removed_node_is_kept_until_it_is_empty() -> None:
    """A tombstone of a held node: it takes nothing and stays; an empty one goes at once."""
    held = msgspec.structs.replace(node_entry(node("n1"), 1), free=0)
    kept = after(held, None, instance({"n1": 8}))
    assert (Standing.REMOVED, ()) == (kept.nodes["n1"].standing, kept.gone)
    assert ("n1",) == nodes.settle(kept.nodes, [], []).gone
    assert (("n1",), {}) == ((empty := after(node_entry(node("n1"), 1), None)).gone, dict(empty.nodes))


def test_a_held_node_that_moved_is_named() -> None:
    """Its place changed while something holds it; an empty one moves without a word."""
    elsewhere = msgspec.structs.replace(node("n1"), at=NodeAt(cluster="c1", s2="B", s1="b1"))
    assert frozenset({"n1"}) == after(node_entry(node("n1"), 1), elsewhere, instance({"n1": 8})).moved
    assert frozenset() == after(node_entry(node("n1"), 1), elsewhere).moved
