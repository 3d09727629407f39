"""What the service makes of commands, acknowledgements, time and the fleet, cycle by cycle; all invariants hold after each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.commands import Adoption, Command, CommandRole
from heteroscale.contracts.fleet import NodeAt, NodeState
from heteroscale.contracts.placements import DegradedReason, InstanceState, PlacementStatus
from heteroscale.contracts.spec import GpuChoice, PartSpec
from heteroscale.placement.inventory.entries import Quarantine, Standing
from heteroscale.placement.inventory.gang import Gang, Outcome, Verdict
from support.gangs import node
from support.placement_driver import Driver, command

S = InstanceState
K = ActuationKind
MINUTE_MS = 60_000


def fleet(count: int) -> Driver:
    """So many nodes of eight GPUs in one pod."""
    return Driver(*(node(f"n{at}") for at in range(count)))


def serving(count: int = 6, prefill: int = 1) -> Driver:
    """A service that has converged."""
    driver = fleet(count)
    driver.cycle(command(prefill))
    driver.acknowledge(K.READY)
    assert PlacementStatus.CONVERGED is driver.newest().status
    return driver


def test_a_command_is_placed_and_converges() -> None:
    """One Placement for the command, one for the acknowledgements; seq grows by one each."""
    driver = fleet(3)
    driver.cycle(command())
    assert (PlacementStatus.PROGRESSING, 1, 3) == (driver.newest().status, driver.newest().seq, len(driver.instances("chat", S.RESERVED)))
    driver.acknowledge(K.STARTING)
    driver.acknowledge(K.READY)
    assert (PlacementStatus.CONVERGED, 3) == (driver.newest().status, driver.newest().seq)
    assert all(one.routable for one in driver.instances())


def test_every_affirmation_is_answered_and_changes_nothing() -> None:
    """A newer at_ms of the same revision gets a Placement; the same command again gets none."""
    driver = serving()
    before = driver.newest()
    again = command(after_ms=MINUTE_MS)
    driver.cycle(again)
    affirmed = driver.newest()
    assert (before.groups, [], again.at_ms, (before.seq or 0) + 1) == (affirmed.groups, affirmed.changes, affirmed.at_ms, affirmed.seq)
    written = len(driver.written)
    assert 1 == driver.cycle(again).counts[0].repeated_commands
    assert written == len(driver.written)


def test_an_overtaken_command_is_counted_and_dropped() -> None:
    """An older revision never comes back."""
    driver = serving()
    driver.cycle(command(2, revision=2, after_ms=1))
    assert 1 == driver.cycle(command(1, revision=1, after_ms=MINUTE_MS)).counts[0].stale_commands
    assert 2 == driver.newest().revision


def test_commands_of_one_cycle_are_coalesced() -> None:
    """The newest of a service wins; it gets one answer."""
    driver = fleet(6)
    driver.cycle(command(1), command(2, revision=2, after_ms=1), command(1, after_ms=2))
    assert (1, 2, 6) == (len(driver.written), driver.newest().revision, len(driver.instances()))


def test_what_does_not_fit_is_placed_when_something_frees() -> None:
    """Without any new command: the acknowledgement that frees GPUs is enough."""
    driver = fleet(3)
    driver.cycle(command())
    driver.cycle(command(service="late", after_ms=1))
    assert (PlacementStatus.UNPLACED, {"prefill": 1, "decode": 2}) == (driver.newest("late").status, driver.newest("late").shortfall)
    driver.cycle(command(0, revision=2, after_ms=2))
    assert [S.STOPPING] * 3 == [one.state for one in driver.instances()]
    assert [] == driver.instances("late")
    driver.acknowledge(K.STOPPED)
    assert [] == driver.instances()
    assert (3, {}) == (len(driver.instances("late", S.RESERVED)), driver.newest("late").shortfall)


def test_soft_scale_in_drains_restores_and_finalizes() -> None:
    """Draining ones leave routing and keep their GPUs; a restore brings them back; draining 0 stops them."""
    driver = serving(6, 2)
    driver.cycle(command(1, revision=2, after_ms=1, draining=(1, 2)))
    assert (3, 3) == (len(driver.instances("chat", S.READY)), len(driver.instances("chat", S.DRAINING)))
    assert not any(one.routable for one in driver.instances("chat", S.DRAINING))
    driver.cycle(command(2, revision=3, after_ms=2))
    assert (6, PlacementStatus.CONVERGED) == (len(driver.instances("chat", S.READY)), driver.newest().status)
    driver.cycle(command(1, revision=4, after_ms=3, draining=(1, 2)))
    driver.cycle(command(1, revision=5, after_ms=4))
    assert (3, 3) == (len(driver.instances("chat", S.READY)), len(driver.instances("chat", S.STOPPING)))
    driver.acknowledge(K.STOPPED, *(one.id for one in driver.instances("chat", S.STOPPING)))
    assert (3, PlacementStatus.CONVERGED) == (len(driver.instances()), driver.newest().status)


def test_a_failed_instance_is_replaced() -> None:
    """At once where there is room; the change says failed, and what failed is gone from the groups."""
    driver = serving()
    victim = driver.instances()[0]
    driver.acknowledge(K.FAILED, victim.id)
    states = sorted(one.state for one in driver.instances())
    assert [S.READY, S.READY, S.RESERVED] == states
    assert victim.id not in {one.id for one in driver.instances()}
    assert (S.READY, S.FAILED) in {(change.from_, change.to) for change in driver.newest().changes}


def test_a_failed_instance_on_a_full_fleet_is_replaced_on_its_own_gpus() -> None:
    """What it held is free a cycle later, which follows at once."""
    driver = serving(3)
    driver.acknowledge(K.FAILED, driver.instances()[0].id)
    assert (3, {}) == (len(driver.instances()), driver.newest().shortfall)


def test_what_a_person_stopped_is_not_replaced() -> None:
    """Until a new revision states new counts."""
    driver = serving()
    driver.acknowledge(K.STOPPED, driver.instances()[0].id)
    assert (2, PlacementStatus.CONVERGED, {}) == (len(driver.instances()), driver.newest().status, driver.newest().shortfall)
    driver.cycle(command(after_ms=MINUTE_MS))
    assert 2 == len(driver.instances())
    driver.cycle(command(revision=2, after_ms=2 * MINUTE_MS))
    assert 3 == len(driver.instances())


def test_a_late_start_is_stopped_and_replaced_once() -> None:
    """After start_deadline_ms; its replacement waits for word of it, then may be replaced as well."""
    driver = fleet(12)
    driver.cycle(command(start_deadline_ms=MINUTE_MS))
    first = {one.id for one in driver.instances()}
    driver.cycle(command(start_deadline_ms=MINUTE_MS, after_ms=MINUTE_MS))
    stopping = {one.id for one in driver.instances("chat", S.STOPPING)}
    assert first == stopping
    assert 3 == len(driver.instances("chat", S.RESERVED))
    driver.cycle(command(start_deadline_ms=MINUTE_MS, after_ms=3 * MINUTE_MS))
    assert (3, 3) == (len(driver.instances("chat", S.STOPPING)), len(driver.instances("chat", S.RESERVED)))
    driver.acknowledge(K.STOPPED, *sorted(first))
    driver.cycle(command(start_deadline_ms=MINUTE_MS, after_ms=4 * MINUTE_MS))
    assert (3, 3) == (len(driver.instances("chat", S.STOPPING)), len(driver.instances("chat", S.RESERVED)))


def test_a_replica_of_which_a_person_stopped_one_part_is_over() -> None:
    """The other parts serve nobody: they stop too, and nothing is started in their place until a new revision asks for it."""
    driver = Driver(*(node(f"n{at}") for at in range(6)))
    driver.cycle(in_parts())
    driver.acknowledge(K.READY)
    stopped = next(one for one in driver.instances() if one.part == "ffn")
    driver.acknowledge(K.STOPPED, stopped.id)
    (other,) = driver.instances("chat", S.STOPPING)
    assert ("attention", stopped.replica) == (other.part, other.replica)
    driver.acknowledge(K.STOPPED, other.id)
    assert (3, PlacementStatus.CONVERGED) == (len(driver.instances()), driver.newest().status)
    driver.cycle(in_parts(revision=2, after_ms=1))
    assert {"ffn", "attention"} == {one.part for one in driver.instances("chat", S.RESERVED)}


def in_parts(**changes: Any) -> Command:
    """One prefill and two decode replicas of two parts each."""
    parts = {"attention": PartSpec(count=1, gpus=2), "ffn": PartSpec(count=1, gpus=2)}
    base = command(**changes)
    decode = CommandRole(replicas=2, gpus=4, gpu_types=[GpuChoice(type="H20")], parts=parts)
    return msgspec.structs.replace(base, roles={**base.roles, "decode": decode})


def test_the_replacement_of_a_late_start_goes_elsewhere() -> None:
    """Not to the node on which it did not start, although that has room: something may be wrong there. Afterwards it is used again."""
    small = {
        role: CommandRole(replicas=count, gpus=2, gpu_types=[GpuChoice(type="H20")]) for role, count in (("prefill", 1), ("decode", 2))
    }
    driver = Driver(node("n0"), node("n1"))
    driver.cycle(msgspec.structs.replace(command(start_deadline_ms=10_000), roles=small))
    late, *others = driver.instances()
    driver.acknowledge(K.READY, *(one.id for one in others))
    driver.cycle(msgspec.structs.replace(command(start_deadline_ms=10_000, after_ms=10_000), roles=small))
    (fresh,) = driver.instances("chat", S.RESERVED)
    assert late.nodes.keys().isdisjoint(fresh.nodes)
    driver.acknowledge(K.STOPPED, late.id)
    driver.acknowledge(K.FAILED, fresh.id)
    (again,) = driver.instances("chat", S.RESERVED)
    assert late.nodes == again.nodes


def test_a_replacement_that_starts_late_takes_no_traffic_from_those_who_carry_it() -> None:
    """The peer merely died; that its replacement is replaced in turn changes nothing for those who were routed before."""
    driver = Driver(*(node(f"n{at}") for at in range(6)))
    driver.cycle(command(start_deadline_ms=10_000))
    driver.acknowledge(K.READY)
    driver.acknowledge(K.FAILED, next(one.id for one in driver.instances() if one.role == "prefill"))
    assert 2 == sum(one.routable for one in driver.instances())
    driver.cycle(command(start_deadline_ms=10_000, after_ms=10_000))
    assert {S.STOPPING, S.RESERVED} == {one.state for one in driver.instances() if one.role == "prefill"}
    assert 2 == sum(one.routable for one in driver.instances())


def test_a_lost_node_fails_its_instances_and_keeps_their_gpus_for_the_lease() -> None:
    """Failed at once and replaced elsewhere; GPUs come back after the lease; the node waits for word when it returns."""
    driver = serving(4)
    lost = next(iter(driver.instances()[0].nodes))
    driver.cycle(nodes=[node(lost, state=NodeState.LOST)])
    assert [S.FAILED, S.READY, S.READY, S.RESERVED] == sorted(one.state for one in driver.instances())
    assert 0 == driver.state.nodes[lost].free
    driver.cycle(command(after_ms=5 * MINUTE_MS))
    assert 8 == driver.state.nodes[lost].free
    driver.cycle(nodes=[node(lost)])
    back = driver.state.nodes[lost]
    assert (Standing.QUARANTINED, Quarantine.BACK_FROM_LOST) == (back.standing, back.quarantine)
    driver.acknowledge(K.STOPPED, *(one.id for one in driver.instances("chat", S.FAILED)))
    assert (Standing.READY, 8) == (driver.state.nodes[lost].standing, driver.state.nodes[lost].free)
    assert [] == driver.instances("chat", S.FAILED)


def test_cordoned_nodes_keep_what_they_hold_and_take_nothing() -> None:
    """Uncordoning alone is enough to place what waited."""
    driver = serving(3)
    driver.cycle(nodes=[node("n3", state=NodeState.CORDONED), *(node(f"n{at}", state=NodeState.CORDONED) for at in range(3, 6))])
    driver.cycle(command(2, revision=2, after_ms=1))
    assert {"prefill": 1, "decode": 2} == driver.newest().shortfall
    driver.cycle(nodes=[node(f"n{at}") for at in range(3, 6)])
    assert ({}, 6) == (driver.newest().shortfall, len(driver.instances()))


def test_a_removed_node_stays_until_it_is_empty() -> None:
    """A tombstone of a held node: nothing is lost, nothing new goes there, and it leaves with its last instance."""
    driver = serving(3)
    name = next(iter(driver.instances()[0].nodes))
    driver.cycle(gone=[name])
    assert (Standing.REMOVED, 3) == (driver.state.nodes[name].standing, len(driver.instances()))
    driver.cycle(command(0, revision=2, after_ms=1))
    driver.acknowledge(K.STOPPED)
    assert name not in driver.state.nodes


def test_a_moved_node_keeps_its_hold_and_marks_the_group() -> None:
    """Degraded, reason moved."""
    driver = serving(3)
    name = next(iter(driver.instances()[0].nodes))
    driver.cycle(nodes=[msgspec.structs.replace(node(name), at=NodeAt(cluster="c1", s2="B", s1="b1"))])
    (group,) = driver.newest().groups
    assert (True, DegradedReason.MOVED, 3) == (group.degraded, group.degraded_reason, len(group.instances))


def test_dry_runs_are_answered_and_hold_nothing() -> None:
    """After the real requests, on what they left; seq null; the inventory is as before."""
    driver = fleet(4)
    driver.cycle(command(), command(service="shadow", dry_run=True))
    assert ["chat"] == [one.service for one in driver.written]
    (answer,) = driver.answers
    assert ("shadow", None, True, PlacementStatus.UNPLACED) == (answer.service, answer.seq, answer.dry_run, answer.status)
    assert {"chat"} == set(driver.image().services)


def test_the_gate_holds_back_what_has_no_partner() -> None:
    """Decodes that are ready before their prefill: one is routed, the other waits."""
    driver = fleet(3)
    driver.cycle(command())
    decodes = [one.id for one in driver.instances() if one.role == "decode"]
    driver.acknowledge(K.READY, *decodes)
    assert 1 == sum(one.routable for one in driver.instances())
    driver.acknowledge(K.READY)
    assert 3 == sum(one.routable for one in driver.instances())


def adoption(name: str, role: str, at: str, gpus: int = 8) -> Adoption:
    """A running instance."""
    return Adoption(instance=name, role=role, gpu_type="H20", nodes={at: gpus})


def test_running_instances_are_adopted_out_of_what_is_used() -> None:
    """Ready, routable, in one group; nothing new is placed; `used` becomes held and stays so when the record repeats itself."""
    driver = Driver(*(node(f"n{at}", used=8) for at in range(3)), node("n3"))
    adopt = [adoption("p", "prefill", "n0"), adoption("d1", "decode", "n1"), adoption("d2", "decode", "n2")]
    driver.cycle(command(1, adopt=adopt))
    assert (PlacementStatus.CONVERGED, 1) == (driver.newest().status, len(driver.newest().groups))
    assert {"p", "d1", "d2"} == {one.id for one in driver.instances("chat", S.READY) if one.routable}
    driver.cycle(nodes=[node(f"n{at}", used=8) for at in range(3)])
    assert (0, 0) == (driver.state.nodes["n0"].free, driver.state.nodes["n0"].used)
    driver.cycle(command(0, revision=2, after_ms=1))
    driver.acknowledge(K.STOPPED)
    assert 8 == driver.state.nodes["n0"].free


def test_an_adoption_that_does_not_fit_is_named_and_quarantined() -> None:
    """Nothing is overwritten; nothing is started in place of what runs."""
    driver = serving(5)
    taken = next(iter(driver.instances()[0].nodes))
    adopt = [adoption("p9", "prefill", taken), adoption("p8", "prefill", "n9")]
    before = len(driver.instances())
    driver.cycle(command(3, 2, revision=2, after_ms=1, adopt=adopt))
    inputs = driver.newest().inputs
    assert inputs is not None
    assert {("adopt:p9", taken), ("adopt:p8", "n9")} == {(one.gang, one.node) for one in inputs.conflicts}
    assert before == len(driver.instances())
    assert (Standing.QUARANTINED, Quarantine.ADOPTION_CONFLICT) == (
        driver.state.nodes[taken].standing,
        driver.state.nodes[taken].quarantine,
    )


def test_a_command_that_is_not_ours_is_left_alone() -> None:
    """`placement: none`: no Placement, nothing kept."""
    driver = fleet(3)
    assert 1 == driver.cycle(command(affinity=None)).counts[0].left_alone
    assert [] == driver.written


def test_an_acknowledgement_for_nobody_is_counted() -> None:
    """An instance that the inventory does not know changes nothing."""
    driver = serving()
    assert 1 == driver.acknowledge(K.READY, "nobody").counts[0].unknown_instances


def test_the_same_records_give_the_same_bytes() -> None:
    """SAME-IN-SAME-OUT: two drivers, one history, equal bytes."""

    def play() -> list[bytes]:
        driver = fleet(9)
        driver.cycle(command(2), command(service="b", after_ms=1), command(service="c", after_ms=2, dry_run=True))
        driver.acknowledge(K.READY)
        driver.cycle(command(1, revision=2, after_ms=3, draining=(1, 2)))
        driver.acknowledge(K.FAILED, driver.instances()[0].id)
        return driver.payloads

    assert play() == play()


def test_a_conflict_is_planned_again_and_recorded() -> None:
    """The fleet changed between read and write: the gang is refused with the node, planned elsewhere, and a replay can know."""
    driver = fleet(4)
    nodes = driver.inventory._fleets["default"].nodes
    taken = "n0"
    nodes[taken] = msgspec.structs.replace(nodes[taken], standing=Standing.CORDONED)
    carried = driver.cycle(command())
    assert taken not in {name for one in driver.instances() for name in one.nodes}
    assert 3 == len(driver.instances())
    inputs = driver.newest().inputs
    assert inputs is not None
    assert ([taken], 1) == ([one.node for one in inputs.conflicts], carried.conflicts)


def test_a_command_that_is_refused_again_and_again_is_kept() -> None:
    """After three refusals it is taken in without a reservation, and placed as soon as the inventory agrees."""
    driver = fleet(3)
    whole = driver.inventory.apply

    async def stubborn(gangs: Sequence[Gang]) -> list[Outcome]:
        return [Outcome(verdict=Verdict.CONFLICT, node="n1") if gang.takes else (await whole([gang]))[0] for gang in gangs]

    driver.inventory.apply = stubborn  # type: ignore[method-assign] # a refusal that no fleet explains
    driver.cycle(command())
    inputs = driver.newest().inputs
    assert inputs is not None
    assert (PlacementStatus.UNPLACED, {"prefill": 1, "decode": 2}, 4) == (
        driver.newest().status,
        driver.newest().shortfall,
        len(inputs.conflicts),
    )
    driver.inventory.apply = whole  # type: ignore[method-assign] # it agrees again
    driver.cycle(command(after_ms=1))
    assert (3, {}) == (len(driver.instances()), driver.newest().shortfall)
