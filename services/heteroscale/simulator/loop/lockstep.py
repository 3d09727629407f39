"""Virtual time in lockstep with the loop: the world goes on only when every service has been heard and answered.

One code path for real Kafka and for the log in memory. Waiting is bounded, and a time-out says what is awaited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from heteroscale.bus.log import Log, Reader, TopicPartition
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.errors import Broken
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.contracts.units import instant_text
from heteroscale.runtime.clock import Clock
from heteroscale.simulator.cluster.world import World
from heteroscale.simulator.figures.seen import Seen, rhythm

POLL_MS: Final = 200
FOLLOWED: Final = (Topic.SIGNALS, Topic.DECISIONS, Topic.PLACEMENTS)
READY_OR_LATER: Final = frozenset({InstanceState.READY, InstanceState.DRAINING, InstanceState.STOPPING, InstanceState.FAILED})
STARTING_OR_LATER: Final = READY_OR_LATER | {InstanceState.STARTING}


@dataclass(slots=True)
class Awaited:
    """What must be on the log before time goes on: a decision per service, its placement, and each acknowledgement reflected."""

    decided_ms: dict[str, int]
    actuations: list[Actuation]

    def missing(self, seen: Seen, prefix: str) -> list[str]:
        """What is not there yet, in words."""
        lacking = []
        for service, at_ms in self.decided_ms.items():
            decision = seen.decisions.get(service)
            if decision is None or decision.at_ms < at_ms:
                lacking.append(f"the Decision of {service} for the window that ends {instant_text(at_ms)} on {prefix}.{Topic.DECISIONS}")
                continue
            placement = seen.placements.get(service)
            if decision.command_id is not None and (placement is None or placement.at_ms < decision.at_ms):
                lacking.append(
                    f"the Placement of {service} for the command of {instant_text(decision.at_ms)} on {prefix}.{Topic.PLACEMENTS}"
                )
        self.actuations = [said for said in self.actuations if not _reflected(said, seen.placements.get(said.service))]
        lacking += [f"{said.instance} of {said.service} {said.kind} on {prefix}.{Topic.PLACEMENTS}" for said in self.actuations[:3]]
        return lacking


def _reflected(said: Actuation, placement: Placement | None) -> bool:
    if placement is None:
        return False
    state = next((placed.state for group in placement.groups for placed in group.instances if placed.id == said.instance), None)
    match said.kind:
        case ActuationKind.STARTING:
            return state is None or state in STARTING_OR_LATER
        case ActuationKind.READY:
            return state is None or state in READY_OR_LATER
        case ActuationKind.FAILED | ActuationKind.STOPPED:
            return state is None or state is InstanceState.FAILED


OnHop = Callable[[World, Seen, int], Awaitable[None] | None]
Alive = Callable[[], str | None]


@dataclass(slots=True)
class Lockstep:
    """Plays a world against the loop over a log. `alive` names a service that has died, with its last words."""

    world: World
    log: Log
    clock: Clock
    timeout_s: float
    alive: Alive
    seen: Seen = field(default_factory=Seen)
    reader: Reader | None = None

    async def open(self) -> None:
        """Publish specs and fleet; everything the services read before their first effect."""
        prefix = self.world.scene.prefix
        topics = {topic: topic_name(prefix, topic) for topic in FOLLOWED}
        positions = {
            TopicPartition(name, partition): 0 for topic, name in topics.items() for partition in range(CATALOGUE[topic].partitions)
        }
        await self.log.append(self.world.opening())
        self.reader = self.log.reader(await self.log.end_offsets(positions))

    async def play(self, until_ms: int, on_hop: OnHop) -> None:
        """Hop by hop to `until_ms` (the world's time may stand up to a hop beyond it)."""
        world = self.world
        await self.log.append(world.ticks(world.now_ms))
        hop, phase = rhythm(list(world.specs.values()))
        boundary = world.now_ms - world.now_ms % hop + phase
        while world.now_ms < until_ms:
            boundary += hop if boundary <= world.now_ms else 0
            published = world.advance(boundary)
            await self.log.append(published.entries)
            awaited = Awaited(self._decided_by(boundary), published.actuations)
            await self.settle(awaited)
            for _, placement in sorted(self.seen.placements.items()):
                world.placed(placement)
            step = on_hop(world, self.seen, boundary)
            if step is not None:
                await step

    def _decided_by(self, now_ms: int) -> dict[str, int]:
        """The end of the newest window that each service must have decided by a tick at `now_ms`."""
        opens = self.world.scene.opens_at_ms
        due = {}
        for service, spec in sorted(self.world.specs.items()):
            window = spec.window
            end = now_ms - window.allowed_lateness.ms - window.interval.ms
            end -= end % window.hop.ms
            first = opens + (-opens % window.hop.ms) + window.size.ms
            if end >= first:
                due[service] = end
        return due

    async def settle(self, awaited: Awaited) -> None:
        """Read until nothing is missing. Raises Broken that names what is, after `timeout_s`."""
        if self.reader is None:
            raise Broken("the world was not opened")
        prefix = self.world.scene.prefix
        topics = {topic_name(prefix, topic): topic for topic in FOLLOWED}
        started = self.clock.monotonic_s()
        while True:
            missing = awaited.missing(self.seen, prefix)
            if not missing:
                return
            died = self.alive()
            if died is not None:
                raise Broken(died)
            if self.clock.monotonic_s() - started > self.timeout_s:
                raise Broken(
                    f"still waiting after {self.timeout_s:g} s for {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
                )
            for record in await self.reader.poll(timeout_ms=POLL_MS):
                if record.value is not None:
                    self.seen.take(topics[record.topic], record.value)

    async def close(self) -> None:
        """Let the reader go."""
        if self.reader is not None:
            await self.reader.close()
