"""Looks again, now and then, whether inventory, log and actuators agree, and says what is to be done about what does not.

It frees nothing on a single observation: what a service is told about an instance, or a node, was seen in two looks that are a
whole period apart. Saying a record again is harmless, so that needs one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import FleetName, InstanceName, ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.placement import reconcile, takeover
from heteroscale.placement.reconcile import Finding, Kind
from heteroscale.placement.reservation import FencedOff, NotReady
from heteroscale.placement.state import FleetState
from heteroscale.placement.takeover import TakeOver

WHOLE_EVERY: Final = 60  # looks; reading tens of thousands of nodes takes the worker about a second


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and what to do about it.

    `again`: words to be heard again. `restate`: services to be written again under the next seq. `haunted`: ghosts whose nodes are
    to be quarantined. `departed`: services that another fleet has now, to be forgotten. `republished`: records said again already.
    """

    found: Sequence[Finding]
    again: Sequence[Actuation] = ()
    restate: frozenset[ServiceName] = frozenset()
    haunted: frozenset[InstanceName] = frozenset()
    departed: frozenset[ServiceName] = frozenset()
    republished: int = 0


class Reconciler:
    """One worker's. Between two looks at a fleet it remembers what the first one saw."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._due_s: dict[FleetName, float] = {}
        self._seen: dict[FleetName, frozenset[Finding]] = {}
        self._strangers: set[InstanceName] = set()
        self._looks: dict[FleetName, int] = {}

    def due(self, fleet: FleetName, now_s: float) -> bool:
        """Whether it is time; the first look comes a period after the first question."""
        return now_s >= self._due_s.setdefault(fleet, now_s + self._period_s)

    async def look(self, with_: TakeOver, now: FleetState, now_s: float) -> Look:
        """One look at a fleet. Raises FencedOff if the inventory is not what the worker takes it for, NotReady if the log is ahead."""
        self._due_s[now.fleet] = now_s + self._period_s
        if not await self._is_as_known(with_, now):
            raise FencedOff("the inventory is not what this worker takes it for")
        await with_.placements.catch_up()
        await with_.actuations.catch_up()
        heard = with_.actuations.of(now.fleet)
        elsewhere = with_.placements.elsewhere(now.fleet)
        all_found = reconcile.compare(now, _newest(with_, now.fleet), heard, with_.placements.contested, elsewhere)
        found = [one for one in all_found if one.subject not in self._strangers]
        if ahead := [one.subject for one in found if one.kind is Kind.AHEAD]:
            raise NotReady(f"placements.v1 has seen more of {ahead[0]} than the inventory has")
        republished = await takeover.republish_behind(with_, now) if any(one.kind is Kind.BEHIND for one in found) else 0
        twice = [one for one in found if one in self._seen.get(now.fleet, frozenset())]
        self._seen[now.fleet] = frozenset(found)
        return Look(
            found=found,
            again=[heard[one.subject] for one in twice if one.kind is Kind.UNHEARD],
            restate=frozenset(one.subject for one in twice if one.kind is Kind.DIFFERS),
            departed=frozenset(one.subject for one in twice if one.kind is Kind.MOVED),
            haunted=await self._ours(with_, now, [one.subject for one in twice if one.kind is Kind.GHOST]),
            republished=republished,
        )

    async def _is_as_known(self, with_: TakeOver, now: FleetState) -> bool:
        """Every write raises the revision, so that is compared in each look, and everything in the first and then now and then."""
        looks = self._looks.get(now.fleet, 0)
        self._looks[now.fleet] = looks + 1
        if looks % WHOLE_EVERY:
            return await with_.inventory.stamp(now.fleet) == (now.gen, now.rev)
        image = await with_.inventory.read(now.fleet)
        return image is not None and reconcile.same(now, image)

    async def _ours(self, with_: TakeOver, now: FleetState, ghosts: Sequence[InstanceName]) -> frozenset[InstanceName]:
        """Ghosts that a Placement once listed. The others are strangers, told of once: nobody knows where they run."""
        if not ghosts:
            return frozenset()
        listed = await with_.placements.every(now.fleet, ghosts)
        ours = frozenset(name for name, placement in listed.items() if placement.service in now.services)
        self._strangers |= set(ghosts) - ours
        return ours


def _newest(with_: TakeOver, fleet: FleetName) -> Mapping[ServiceName, Placement]:
    found: dict[ServiceName, Placement] = {}
    for service, newest in with_.placements.of(fleet).items():
        try:
            found[service] = newest.placement()
        except Rejected as error:
            raise NotReady(f"the newest Placement of {service} cannot be read: {error}") from error
    return found
