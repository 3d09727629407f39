"""The fleets that one worker plans: taken over, planned cycle by cycle, compared with the log now and then.

Between cycles a fleet is kept as it was last seen; whatever casts doubt on that (an error, another worker, the group) drops it, and
the next turn takes it over anew.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from heteroscale.bus import partitioning
from heteroscale.bus.log import TopicPartition
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected, Retryable, Stale
from heteroscale.contracts.names import FleetName, InstanceName, ServiceName
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.placement import reservation, takeover
from heteroscale.placement.actuations_topic import ActuationsTopic
from heteroscale.placement.crash_points import CrashPoint, Passing
from heteroscale.placement.fleet_topic import FleetTopic
from heteroscale.placement.fold import CycleInput, Event
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.placements_topic import PlacementsTopic
from heteroscale.placement.publisher import Publisher
from heteroscale.placement.reconciler import Reconciler
from heteroscale.placement.report import Report
from heteroscale.placement.settings import PlacementSettings
from heteroscale.placement.state import FleetState
from heteroscale.placement.takeover import TakeOver
from heteroscale.runtime.context import Context

Refuse = Callable[[Command, Rejected], Awaitable[None]]
"""What becomes of a command that was not folded."""


def partition_of(fleet: FleetName) -> int:
    """The partition of commands.v1 and of actuations.v1 that a fleet's records are in."""
    return partitioning.partition_of(fleet.encode(), CATALOGUE[Topic.COMMANDS].partitions)


class Fleets:
    """One worker's. `topic` is fleet.v1 as far as it was read, which the worker moves on."""

    def __init__(
        self, context: Context, settings: PlacementSettings, inventory: Inventory, report: Report, refuse: Refuse, passing: Passing
    ) -> None:
        self._passing = passing
        self._log = context.log
        self._prefix = context.prefix
        self._settings = settings
        self._inventory = inventory
        self._report = report
        self._refuse = refuse
        placements = topic_name(context.prefix, Topic.PLACEMENTS)
        self.topic = FleetTopic(context.log, topic_name(context.prefix, Topic.FLEET))
        self._placements = PlacementsTopic(context.log, placements)
        self._publisher = Publisher(inventory, context.log, placements, CATALOGUE[Topic.PLACEMENTS].partitions, self._placements)
        self._reconciler = Reconciler(settings.reconcile_ms / 1_000)
        self._states: dict[FleetName, FleetState] = {}
        self._seen: dict[FleetName, int] = {}
        self._leased_until_s: dict[FleetName, float] = {}
        self._words: dict[int, ActuationsTopic] = {}

    async def turn(self, fleet: FleetName, events: Sequence[Event], read: Mapping[TopicPartition, int]) -> None:
        """One turn of a fleet: a cycle if there is anything new, a look round if it is time. May be repeated with the same events.

        `read`: next offsets of what the worker reads. Raises Retryable; FencedOff if another worker has the fleet.
        """
        await self._cycle(fleet, events, read)
        await self._reconcile(fleet, read)
        await self._renew_lease(fleet)

    def drop(self, fleet: FleetName) -> None:
        """What is known of a fleet may be wrong."""
        self._states.pop(fleet, None)

    def drop_all(self) -> None:
        """The group gave or took partitions, or another worker committed: nothing that is known may be relied on."""
        self._states.clear()

    async def settle(self) -> None:
        """Take out of `out` what is on the log. Raises Retryable."""
        await self._publisher.settle()

    async def close(self) -> None:
        """Let go of the log. What `out` still holds is published again by whoever comes next."""
        await self.topic.close()

    async def _cycle(
        self,
        fleet: FleetName,
        events: Sequence[Event],
        read: Mapping[TopicPartition, int],
        restate: frozenset[ServiceName] = frozenset(),
    ) -> None:
        """One cycle of one fleet. Raises Retryable, FencedOff."""
        now = await self._above(self._states.get(fleet) or await self._take_over(fleet), events)
        position = self.topic.position
        known = self._seen.get(fleet) == position
        if not (events or restate) and known:
            return
        changes = {} if known else self.topic.newest(fleet)
        given = CycleInput(events, now.cycle + 1, self._cut_of(fleet, read), restate=restate)
        began = asyncio.get_running_loop().time()
        try:
            self._passing(CrashPoint.BEFORE_APPLY)
            carried = await reservation.carry_out(self._inventory, now, given, changes)
            self._passing(CrashPoint.AFTER_APPLY)
            await self._publisher.applied(fleet, carried.applied, carried.answers)
            self._passing(CrashPoint.AFTER_PUBLISH)
            for command, error in carried.refused:
                await self._refuse(command, error)
        except (Retryable, Stale):
            self.drop(fleet)
            raise
        self._states[fleet] = carried.state
        self._seen[fleet] = position
        self._report.cycle(fleet, given.number, carried, asyncio.get_running_loop().time() - began)

    async def _above(self, now: FleetState, events: Sequence[Event]) -> FleetState:
        """Services that come from another fleet go on above what stands on the log of them, under another generation if need be."""
        new = {one.service for one in events if isinstance(one, Command) and _is_new(now, one)}
        if not new:
            return now
        await self._placements.catch_up()
        arriving = takeover.outranked(now, self._placements, new)
        return await self._take_over(now.fleet, arriving=arriving) if arriving else now

    async def _reconcile(self, fleet: FleetName, read: Mapping[TopicPartition, int]) -> None:
        """Now and then: do inventory, log and actuators agree? Raises Retryable, FencedOff."""
        now, now_s = self._states.get(fleet), asyncio.get_running_loop().time()
        if now is None or not self._reconciler.due(fleet, now_s):
            return
        try:
            look = await self._reconciler.look(self._ground(fleet), now, now_s)
        except (Retryable, Stale):
            self.drop(fleet)
            raise
        self._report.reconciled(fleet, look)
        if look.haunted or look.departed:
            await self._take_over(fleet, look.haunted)
        if look.again or look.restate:
            await self._cycle(fleet, look.again, read, look.restate)

    async def _take_over(
        self, fleet: FleetName, haunted: Collection[InstanceName] = (), arriving: Collection[ServiceName] = ()
    ) -> FleetState:
        taken = await takeover.take_over(self._ground(fleet), fleet, haunted, arriving)
        self._report.taken(fleet, taken)
        self._states[fleet] = taken.state
        self._seen.pop(fleet, None)
        return taken.state

    def _ground(self, fleet: FleetName) -> TakeOver:
        """Where a fleet's truth lies."""
        partition = partition_of(fleet)
        actuations = TopicPartition(topic_name(self._prefix, Topic.ACTUATIONS), partition)
        return TakeOver(
            inventory=self._inventory,
            log=self._log,
            publisher=self._publisher,
            fleet_topic=self.topic,
            placements=self._placements,
            passing=self._passing,
            commands=TopicPartition(topic_name(self._prefix, Topic.COMMANDS), partition),
            actuations=self._words.setdefault(partition, ActuationsTopic(self._log, actuations)),
        )

    async def _renew_lease(self, fleet: FleetName) -> None:
        """Say who plans this fleet, for people who ask. Nothing depends on it."""
        now_s = asyncio.get_running_loop().time()
        if fleet in self._states and now_s >= self._leased_until_s.get(fleet, 0.0):
            await self._inventory.lease(fleet, f"{socket.gethostname()}:{os.getpid()}", self._settings.lease_ms)
            self._leased_until_s[fleet] = now_s + self._settings.lease_ms / 3_000

    def _cut_of(self, fleet: FleetName, read: Mapping[TopicPartition, int]) -> dict[str, int]:
        """Next offsets of what this fleet's cycle has read."""
        partition = partition_of(fleet)
        own = {at: offset for at, offset in read.items() if at.partition == partition}
        own[self.topic.at] = self.topic.position
        return {str(at): offset for at, offset in sorted(own.items())}


def _is_new(now: FleetState, command: Command) -> bool:
    """Whether a command is the first of a service that holds nothing here, so that another fleet may have had it."""
    known = now.services.get(command.service)
    holds = known is not None and bool(known.instances)
    return not holds and not command.dry_run and (known is None or known.entry.command.revision != command.revision)
