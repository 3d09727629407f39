"""Groups of the in-memory log under any order of joining, polling, committing and leaving."""

from __future__ import annotations

import asyncio
from typing import Final

from hypothesis import example, given, settings
from hypothesis import strategies as st

from heteroscale.bus.log import Entry, Member, TopicPartition
from heteroscale.bus.log import TopicLayout as Layout
from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts.errors import Stale

TOPICS: Final = ("left", "right")
PARTITIONS: Final = 5
STEPS = st.lists(st.tuples(st.sampled_from(["append", "join", "leave", "poll", "commit"]), st.integers(0, 7)), max_size=60)


class Play:
    """One play of steps on one log."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.members: dict[int, Member] = {}
        self.seen: dict[tuple[TopicPartition, int], int] = {}
        self.appended = 0

    async def step(self, action: str, number: int) -> None:
        """One step; steps that make no sense now do nothing."""
        member = self.members.get(number)
        if action == "append":
            self.appended += 1
            entries = [Entry(topic, None, b"v", self.appended, number % PARTITIONS) for topic in TOPICS]
            await self.log.append(entries)
        elif action == "join" and member is None:
            self.members[number] = await self.log.join("group", TOPICS)
        elif action == "leave" and member is not None:
            await self.members.pop(number).close()
        elif action == "poll" and member is not None:
            for record in await member.poll(timeout_ms=0):
                assert record.at in member.assignment()
                self.seen[record.at, record.offset] = self.seen.get((record.at, record.offset), 0) + 1
        elif action == "commit" and member is not None:
            await self.commit(member)
        self.check()

    async def commit(self, member: Member) -> None:
        """Commit all that was read; one that lost its partitions is told so."""
        try:
            await member.commit(member.positions())
        except Stale:
            return

    def check(self) -> None:
        """No partition has two holders, and topics of equal counts stay together."""
        held = [at for member in self.members.values() for at in member.assignment()]
        assert len(held) == len(set(held))
        for member in self.members.values():
            numbers = [{at.partition for at in member.assignment() if at.topic == topic} for topic in TOPICS]
            assert numbers[0] == numbers[1]

    async def settle(self) -> None:
        """One member is left and reads all."""
        last = self.members.setdefault(99, await self.log.join("group", TOPICS))
        for _ in range(3):  # one round to let go, one to take over, one to read
            for number in sorted(self.members):
                await self.step("poll", number)
        for number in sorted(self.members):
            if number != 99:
                await self.step("leave", number)
        for _ in range(3):
            await self.step("poll", 99)
        assert len(TOPICS) * PARTITIONS == len(last.assignment())


@given(STEPS)
@example([("join", 0), ("join", 1), ("poll", 1)])  # one has not taken up what it was dealt when the next one joins
@settings(max_examples=150)
def test_every_record_is_read_by_somebody_and_no_partition_has_two_holders(steps: list[tuple[str, int]]) -> None:
    """Whatever happens in between, at the end every record has been handed out (NOTHING-LOST)."""

    async def play() -> None:
        game = Play()
        await game.log.create_topics(Layout(topic, PARTITIONS, {}) for topic in TOPICS)
        for action, number in steps:
            await game.step(action, number)
        await game.settle()
        assert len(TOPICS) * game.appended == len(game.seen)

    asyncio.run(play())
