"""Consumer groups of the in-memory log: range assignment, two-phase rebalance, committed offsets.

A rebalance first asks every holder to give up (its `on_revoked` runs in its next poll), then deals the partitions out anew.
Who does not poll within the deadline loses its partitions all the same, learns of it at its next poll, and its commits are Stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from heteroscale.bus import partitioning
from heteroscale.bus.log import AssignedHook, Record, RevokedHook, TopicPartition
from heteroscale.contracts.errors import Broken, Stale


class Hooks(NamedTuple):
    """What a member wants to be told."""

    on_assigned: AssignedHook | None
    on_revoked: RevokedHook | None


class Source(Protocol):
    """What a member needs of a reader."""

    wake: asyncio.Event

    def take(self, records_max: int) -> list[Record]:
        """What is there now."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Until there may be more, or the time-out."""
        ...

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to be returned."""
        ...

    def lag(self) -> dict[TopicPartition, int]:
        """Records behind the end."""
        ...

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Go on from `offset`."""
        ...

    def restart(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from now on."""
        ...


class GroupCoordinator:
    """One group: its members in the order they came, its committed offsets, its rebalances."""

    def __init__(self, counts: Callable[[Iterable[str]], dict[str, int]], deadline_s: float) -> None:
        self._counts = counts
        self._deadline_s = deadline_s
        self._members: dict[str, MemoryMember] = {}
        self._joined = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._pending = False  # a rebalance is under way
        self.committed: dict[TopicPartition, int] = {}

    def join(self, source: Source, topics: list[str], hooks: Hooks) -> MemoryMember:
        """A new member; everybody's partitions are dealt anew."""
        self._joined += 1
        member = MemoryMember(self, f"member-{self._joined:06d}", source, topics, hooks)
        self._members[member.name] = member
        self._rebalance()
        return member

    def leave(self, member: MemoryMember) -> None:
        """`member` is gone; its partitions go to the others."""
        if self._members.pop(member.name, None) is not None:
            self._rebalance()

    def owner(self, at: TopicPartition) -> MemoryMember | None:
        """Who holds a partition now."""
        return next((member for member in self._members.values() if at in member.granted), None)

    def gave_up(self) -> None:
        """A member has let go; if it was the last one of a rebalance, partitions are dealt out."""
        if self._pending and not any(member.revoking for member in self._members.values()):
            self._deal()

    def _rebalance(self) -> None:
        self._pending = True
        for member in self._members.values():
            member.dealt = False  # what was dealt and not taken up yet is dealt anew
            if member.holding:
                member.revoking = True
            member.source.wake.set()
        if self._deadline is None and any(member.revoking for member in self._members.values()):
            self._deadline = asyncio.get_running_loop().call_later(self._deadline_s, self._deal)
        self.gave_up()

    def _deal(self) -> None:
        self._pending = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        topics = sorted({topic for member in self._members.values() for topic in member.topics})
        for member in self._members.values():
            member.granted = frozenset()
        for topic, count in self._counts(topics).items():
            subscribed = [member.name for member in self._members.values() if topic in member.topics]
            for name, held in partitioning.assign_ranges(subscribed, {topic: count}).items():
                self._members[name].granted |= {TopicPartition(*place) for place in held}
        for member in self._members.values():
            member.dealt = True
            member.source.wake.set()


class MemoryMember:
    """A member of a group on the in-memory log. Hooks run inside `poll` and `close`, never beside the caller's own work."""

    def __init__(self, coordinator: GroupCoordinator, name: str, source: Source, topics: list[str], hooks: Hooks) -> None:
        self.name = name
        self.source = source
        self.topics = topics
        self.granted: frozenset[TopicPartition] = frozenset()  # as the coordinator sees it
        self.holding: frozenset[TopicPartition] = frozenset()  # as the caller sees it
        self.revoking = False  # asked to give up, and has not yet
        self.dealt = False  # a new assignment waits for the next poll
        self._coordinator = coordinator
        self._hooks = hooks
        self._closed = False

    async def poll(self, *, timeout_ms: int, records_max: int = 5_000) -> list[Record]:
        """Next records, waiting at most `timeout_ms` for the first; rebalances take place in here."""
        if self._closed:
            raise Broken("poll after close")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1_000
        await asyncio.sleep(0)  # a reader that never runs dry still lets others run
        while True:
            await self._follow()
            records = self.source.take(records_max)
            left = deadline - loop.time()
            if records or left <= 0 or timeout_ms <= 0:
                return records
            await self.source.wait(left)

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions it holds now."""
        return self.holding

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to be returned, per partition."""
        return self.source.positions()

    def lag(self) -> dict[TopicPartition, int]:
        """Records behind the end, per partition."""
        return self.source.lag()

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Go on from `offset`."""
        self.source.seek(at, offset)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit next offsets. Raises Stale when a partition went to somebody else."""
        for at in offsets:
            if at not in self.holding or self._coordinator.owner(at) is not self or self.dealt:
                raise Stale(f"{at} is no longer held by {self.name}")
        self._coordinator.committed.update(offsets)

    async def committed(self, at: TopicPartition) -> int | None:
        """The group's committed next offset, or null."""
        return self._coordinator.committed.get(at)

    async def close(self) -> None:
        """Give up what it holds and leave the group."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._give_up()
        finally:
            self._coordinator.leave(self)
            self.source.restart({})

    async def _follow(self) -> None:
        """Bring the caller's view up to the coordinator's."""
        while self.revoking or self.dealt:
            try:
                await self._give_up()
            finally:
                if self.revoking:
                    self.revoking = False
                    self._coordinator.gave_up()
            if self.dealt and not self.revoking:
                await self._take_over()

    async def _give_up(self) -> None:
        """Tell the caller, who may still commit; then nothing is held, whatever the hook did."""
        try:
            if self.holding and self._hooks.on_revoked is not None:
                await self._hooks.on_revoked(self.holding)
        finally:
            self.holding = frozenset()
            self.source.restart({})

    async def _take_over(self) -> None:
        """Tell the caller, who may choose positions. A hook that raises is asked again at the next poll."""
        granted = self.holding = self.granted
        self.dealt = False
        chosen: Mapping[TopicPartition, int] | None = None
        try:
            if self._hooks.on_assigned is not None:
                chosen = await self._hooks.on_assigned(granted)
        except BaseException:
            self.holding = frozenset()
            self.dealt = True
            raise
        committed = {at: self._coordinator.committed.get(at, 0) for at in granted}
        self.source.restart(committed | {at: offset for at, offset in (chosen or {}).items() if at in granted})
