"""Carrying a cycle out: nodes synced, gangs applied, conflicts planned again. Between the pure cycle and the inventory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected, Retryable, Stale
from heteroscale.contracts.names import NodeName, ServiceName
from heteroscale.contracts.placements import Conflict, Placement
from heteroscale.placement import clock, fold, nodes, state
from heteroscale.placement.fold import Counts, CycleInput
from heteroscale.placement.inventory.entries import NodeEntry
from heteroscale.placement.inventory.gang import Gang, Outcome, Transition, Verdict
from heteroscale.placement.inventory.protocol import Inventory, NodeSync
from heteroscale.placement.nodes import NodeChange
from heteroscale.placement.state import FleetState

ATTEMPTS_MAX: Final = 3
FOLLOW_UPS_MAX: Final = 8


class NotReady(Retryable):
    """The inventory is not the one that was read (lost, or rebuilt by another worker): take over anew."""


class FencedOff(Stale):
    """Another worker has taken this fleet."""


@dataclass(slots=True)
class Carried:
    """What a cycle came to. `refused`: commands that were not folded, and why."""

    state: FleetState
    applied: list[tuple[Gang, Outcome]] = field(default_factory=list)
    answers: list[Placement] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)
    refused: list[tuple[Command, Rejected]] = field(default_factory=list)
    conflicts: int = 0


async def carry_out(inventory: Inventory, now: FleetState, given: CycleInput, changes: Mapping[NodeName, NodeChange]) -> Carried:
    """One cycle, and follow-ups while what it freed serves somebody who waits.

    Raises Retryable (the store is away), NotReady, FencedOff; what was applied until then is true and in `out`.
    """
    synced, moved = await sync_nodes(inventory, now, changes)
    sifted = clock.sift(now.now_ms, now.suspect_ms, given.events, _observed_ms(synced))
    carried = Carried(replace(synced, suspect_ms=sifted.suspect_ms), refused=sifted.refused)
    await _run(inventory, carried, replace(given, events=sifted.events, moved=moved))
    before = 0
    for _ in range(FOLLOW_UPS_MAX):
        freed = any(gang.frees for gang, _ in carried.applied[before:])
        lifted, _ = await sync_nodes(inventory, carried.state, {})
        freed |= lifted.rev != carried.state.rev
        carried.state = lifted
        before = len(carried.applied)
        if not (freed and fold.waits(carried.state)):
            break
        await _run(inventory, carried, CycleInput((), given.number, given.cut))
        if len(carried.applied) == before:
            break
    return carried


def _observed_ms(now: FleetState) -> int:
    """When a node was last told of, for a clock that was never set; 0 where nobody said."""
    return 0 if now.now_ms else max((entry.record.observed_at_ms for entry in now.nodes.values()), default=0)


async def sync_nodes(
    inventory: Inventory, now: FleetState, changes: Mapping[NodeName, NodeChange]
) -> tuple[FleetState, frozenset[NodeName]]:
    """Bring the inventory's nodes up to fleet.v1; the fleet after it, and held nodes that sit elsewhere now."""
    fresh = [change for _, change in sorted(changes.items()) if _is_newer(now, change)]
    if not fresh and not now.frame.unsettled:
        return now, frozenset()
    instances = [one for known in now.services.values() for one in known.instances.values()]
    settled = nodes.settle(now.nodes, fresh, instances)
    if not settled:
        return now, frozenset()
    return await _write_nodes(inventory, now, settled.nodes, settled.gone), settled.moved


async def _write_nodes(
    inventory: Inventory, now: FleetState, entries: Mapping[NodeName, NodeEntry], gone: Sequence[NodeName]
) -> FleetState:
    outcome = await inventory.sync(NodeSync(fleet=now.fleet, gen=now.gen, fence=now.fence, rev=now.rev, nodes=entries, gone=gone))
    _raise_unless_applied(outcome)
    return now.with_nodes(entries, gone, outcome.rev)


async def _run(inventory: Inventory, carried: Carried, given: CycleInput) -> None:
    """Propose and apply; a refused service is planned again on what the inventory really holds, at most three times.

    After that its command is taken in without a reservation, and placed when something frees.
    """
    refused: dict[ServiceName, list[Conflict]] = {}
    for attempt in range(ATTEMPTS_MAX + 2):
        blind = attempt > ATTEMPTS_MAX
        proposal = fold.propose(carried.state, replace(given, refused=refused, blind=blind))
        if not refused:
            carried.answers += proposal.answers
            carried.counts.append(proposal.counts)
        outcomes = await inventory.apply(proposal.gangs)
        applied = [(gang, outcome) for gang, outcome in zip(proposal.gangs, outcomes, strict=True) if outcome.verdict is Verdict.APPLIED]
        if any(outcome.rev <= carried.state.rev for _, outcome in applied):
            raise NotReady("the inventory counts fewer changes than it did: it forgot some")
        carried.applied += applied
        again = _conflicts(proposal.gangs, outcomes, refused)
        carried.state = replace(carried.state.with_applied(applied), cycle=given.number)
        done = {gang.service for gang, _ in applied}
        carried.transitions += [move for gang, _ in applied for move in proposal.moves[gang.service]]
        if proposal.quarantine and not again:
            carried.state = await _write_nodes(inventory, carried.state, _still(proposal.quarantine, carried.state), ())
        if not again:
            return
        carried.conflicts += len(again)
        refused = {service: found for service, found in again.items() if service not in done}
        carried.state = await _read_again(inventory, carried.state)
    raise NotReady(f"the inventory refuses {sorted(refused)} again and again")


def _still(quarantine: Mapping[NodeName, NodeEntry], now: FleetState) -> dict[NodeName, NodeEntry]:
    """The quarantine on top of what the gangs left of these nodes."""
    found = {}
    for name, entry in quarantine.items():
        if entry.quarantine is not None and name in now.nodes:
            found[name] = nodes.quarantined(now.nodes[name], entry.quarantine)
    return found


def _conflicts(
    gangs: Sequence[Gang], outcomes: Sequence[Outcome], before: Mapping[ServiceName, Sequence[Conflict]]
) -> dict[ServiceName, list[Conflict]]:
    """Refused gangs by service, on top of earlier refusals in this cycle. A stale command is no conflict: a newer one came."""
    found: dict[ServiceName, list[Conflict]] = {}
    for gang, outcome in zip(gangs, outcomes, strict=True):
        if outcome.verdict is Verdict.CONFLICT or (outcome.verdict is Verdict.STALE and outcome.detail == "command"):
            found[gang.service] = [*before.get(gang.service, ()), Conflict(gang=gang.id, node=outcome.node)]
        else:
            _raise_unless_applied(outcome)
    return found


def _raise_unless_applied(outcome: Outcome) -> None:
    match outcome.verdict:
        case Verdict.APPLIED:
            return
        case Verdict.STALE:
            raise FencedOff("another worker has taken this fleet")
        case Verdict.NOT_READY | Verdict.CONFLICT:
            raise NotReady("the inventory is not the one that was read")


async def _read_again(inventory: Inventory, before: FleetState) -> FleetState:
    image = await inventory.read(before.fleet)
    if image is None or image.gen != before.gen or image.rev < before.rev:
        raise NotReady("the inventory was lost, rebuilt, or forgot its last changes")
    fresh = state.from_image(before.fleet, before.fence, image)
    return replace(fresh, now_ms=max(before.now_ms, fresh.now_ms), cycle=before.cycle, suspect_ms=before.suspect_ms)


def _is_newer(now: FleetState, change: NodeChange) -> bool:
    known = now.nodes.get(change.node)
    return change.record is not None if known is None else change.revision > known.revision
