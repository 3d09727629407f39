"""A small world for integration tests: engines of one service that follow placements and report, on virtual time in lockstep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from heteroscale.bus.log import Entry, Log, Reader, TopicPartition
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import InstanceState, PlacedInstance, Placement
from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples, Tick
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name

INTERVAL_MS = 10_000
HOP_MS = 30_000
PATIENCE_S = 60.0


@dataclass(slots=True)
class Engine:
    """One running instance, as its own metrics would show it."""

    placed: PlacedInstance
    state: EngineState
    started_at_ms: int
    generation_tokens: float = 0.0
    prompt_tokens: float = 0.0


@dataclass(slots=True)
class Plant:
    """Follows one service, whose first window ends at `first_end_ms`. `demand`: tokens/s of each role, shared by those that serve."""

    log: Log
    prefix: str
    service: str
    fleet: str
    now_ms: int
    first_end_ms: int
    demand: dict[str, float]
    engines: dict[str, Engine] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    _readers: dict[Topic, Reader] = field(default_factory=dict)

    def _reader(self, topic: Topic) -> Reader:
        if topic not in self._readers:
            name = topic_name(self.prefix, topic)
            self._readers[topic] = self.log.reader({TopicPartition(name, p): 0 for p in range(CATALOGUE[topic].partitions)})
        return self._readers[topic]

    async def close(self) -> None:
        """Let go of the readers."""
        for reader in self._readers.values():
            await reader.close()

    async def _read(self, timeout_ms: int) -> None:
        for record in await self._reader(Topic.DECISIONS).poll(timeout_ms=timeout_ms):
            decision = codec.decode(Decision, record.value or b"")
            if decision.service == self.service:
                self.decisions.append(decision)
        for record in await self._reader(Topic.PLACEMENTS).poll(timeout_ms=1):
            with contextlib.suppress(Rejected):  # a test may have put it there
                placement = codec.decode(Placement, record.value or b"")
                if placement.service == self.service and not placement.dry_run:
                    self.placements.append(placement)

    async def until(self, done: Callable[[], bool], awaited: str) -> None:
        """Read decisions and placements until `done`; fails with what was awaited."""
        async with asyncio.timeout(PATIENCE_S):
            while not done():
                try:
                    await self._read(timeout_ms=200)
                except TimeoutError as error:
                    raise AssertionError(f"waited {PATIENCE_S} s for {awaited}") from error

    @property
    def assignment(self) -> Placement | None:
        """The newest placement, by (gen, seq)."""
        real = [placement for placement in self.placements if placement.seq is not None]
        return max(real, key=lambda placement: (placement.gen, placement.seq or 0)) if real else None

    def count(self, *states: InstanceState) -> dict[str, int]:
        """Instances per role in the newest assignment, in the given states (none given: all)."""
        counts: dict[str, int] = {}
        for group in self.assignment.groups if self.assignment else []:
            for instance in group.instances:
                if not states or instance.state in states:
                    counts[instance.role] = counts.get(instance.role, 0) + 1
        return counts

    def _follow(self) -> list[Actuation]:
        """Start and stop engines as the assignment says; the acknowledgements of it."""
        wanted = {i.id: i for group in (self.assignment.groups if self.assignment else []) for i in group.instances}
        acknowledgements: list[tuple[str, ActuationKind]] = []
        for name, placed in sorted(wanted.items()):
            engine = self.engines.get(name)
            if placed.state in {InstanceState.RESERVED, InstanceState.STARTING}:
                if engine is None:
                    self.engines[name] = Engine(placed, EngineState.SERVING, self.now_ms)
                acknowledgements += [(name, ActuationKind.STARTING), (name, ActuationKind.READY)]
            elif placed.state is InstanceState.STOPPING:
                self.engines.pop(name, None)
                acknowledgements.append((name, ActuationKind.STOPPED))
            elif engine is not None:
                engine.state = EngineState.DRAINING if placed.state is InstanceState.DRAINING else EngineState.SERVING
        return [
            Actuation(service=self.service, fleet=self.fleet, instance=name, at_ms=self.now_ms, kind=kind, actuator="plant")
            for name, kind in acknowledgements
        ]

    def _samples(self, seconds: float) -> Samples:
        serving: dict[str, int] = {}
        for engine in self.engines.values():
            if engine.state is EngineState.SERVING:
                serving[engine.placed.role] = serving.get(engine.placed.role, 0) + 1
        samples = []
        for name, engine in sorted(self.engines.items()):
            if engine.state is EngineState.SERVING:
                share = self.demand.get(engine.placed.role, 0.0) * seconds / serving[engine.placed.role]
                engine.generation_tokens += share if engine.placed.role == "decode" else 0.0
                engine.prompt_tokens += share if engine.placed.role == "prefill" else 0.0
            samples.append(
                InstanceSample(
                    instance=name,
                    role=engine.placed.role,
                    state=engine.state,
                    at_ms=self.now_ms,
                    node=min(engine.placed.nodes),
                    gpu_type=engine.placed.gpu_type,
                    gpus=sum(engine.placed.nodes.values()),
                    started_at_ms=engine.started_at_ms,
                    generation_tokens=round(engine.generation_tokens, 3),
                    prompt_tokens=round(engine.prompt_tokens, 3),
                    cached_prompt_tokens=0,
                    running=1,
                    waiting=0,
                )
            )
        return Samples(service=self.service, source="plant", samples=samples)

    async def _append(self, topic: Topic, key: str | None, message: Samples | Tick | Actuation, partition: int | None = None) -> None:
        name = topic_name(self.prefix, topic)
        await self.log.append([Entry(name, key.encode() if key else None, codec.encode(message), self.now_ms, partition)])

    async def hop(self) -> Decision:
        """One hop of virtual time: acknowledge, report, tick; returns the decision for the window that this closed."""
        for actuation in self._follow():
            await self._append(Topic.ACTUATIONS, self.fleet, actuation)
        await self._report()
        while self._newest_end_ms() < self.first_end_ms:
            await self._report()
        end_ms = self._newest_end_ms()
        await self.until(lambda: bool(self.decisions) and self.decisions[-1].at_ms >= end_ms, f"the decision at {end_ms}")
        decision = self.decisions[-1]
        if decision.command_id is not None:
            await self.until(
                lambda: self.assignment is not None and self.assignment.at_ms >= decision.at_ms, f"the placement at {decision.at_ms}"
            )
        return decision

    def _newest_end_ms(self) -> int:
        """The end of the newest window that the ticks so far have closed."""
        return (self.now_ms - INTERVAL_MS) // HOP_MS * HOP_MS

    async def _report(self) -> None:
        """One hop of samples and ticks."""
        for _ in range(HOP_MS // INTERVAL_MS):
            self.now_ms += INTERVAL_MS
            samples = self._samples(INTERVAL_MS / 1_000)
            if samples.samples:
                await self._append(Topic.TELEMETRY, self.service, samples)
            for partition in range(CATALOGUE[Topic.TELEMETRY].partitions):
                await self._append(Topic.TELEMETRY, None, Tick(at_ms=self.now_ms), partition)

    async def settle(self, hops_max: int = 30) -> Decision:
        """Hop until the newest assignment has converged on the newest command."""
        for _ in range(hops_max):
            decision = await self.hop()
            if self.assignment is not None and self.assignment.status == "converged" and not self._follow_pending():
                return decision
        story = [f"{d.at_ms} {d.action} {d.reason} {d.after}" for d in self.decisions[-hops_max:]]
        raise AssertionError("\n".join([f"not converged after {hops_max} hops: {self.assignment}", *story]))

    def _follow_pending(self) -> bool:
        return bool(self.count(InstanceState.RESERVED, InstanceState.STARTING, InstanceState.STOPPING, InstanceState.DRAINING))
