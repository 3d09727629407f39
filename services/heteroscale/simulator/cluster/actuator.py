"""The simulated actuator: placements in, engine processes started, drained and stopped, acknowledgements out.

Level-triggered like a real one: it looks at the newest assignment of a service and at what runs, never at differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.names import short_hash
from heteroscale.contracts.placements import InstanceState, PlacedInstance, Placement
from heteroscale.contracts.telemetry import EngineState
from heteroscale.simulator.model.engines import ACROSS_S2
from heteroscale.simulator.model.pool import Engine
from heteroscale.simulator.model.service import ServiceModel

ACTUATOR: Final = "simulator"
STARTS: Final = frozenset({InstanceState.RESERVED, InstanceState.STARTING})
ABORT_MS: Final = 1_000  # an engine that has not served yet stops at once


@dataclass(slots=True)
class Running:
    """An engine process, and the moments when it is to change."""

    engine: Engine
    service: str
    fleet: str
    ready_at_ms: int
    stop_at_ms: int | None = None


@dataclass(slots=True)
class Actuator:
    """Processes by instance name. `newest` is the last placement of each service that counts."""

    models: Mapping[str, ServiceModel]
    seed: int
    running: dict[str, Running] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    dead: dict[str, Running] = field(default_factory=dict)
    newest: dict[str, tuple[int, int]] = field(default_factory=dict)
    outbox: list[Actuation] = field(default_factory=list)
    expected: tuple[int, int | None] = (-1, None)

    def placed(self, placement: Placement, now_ms: int) -> bool:
        """Carry out an assignment; false if it is a dry run or older than what is known."""
        if placement.dry_run or placement.seq is None or placement.service not in self.models:
            return False
        order = (placement.gen, placement.seq)
        if order <= self.newest.get(placement.service, (-1, -1)):
            return False
        self.newest[placement.service] = order
        listed = {placed.id: (group.id, placed) for group in placement.groups for placed in group.instances}
        for name, (group, placed) in sorted(listed.items()):
            self._converge(name, group, placed, placement, now_ms)
        for name, run in sorted(self.running.items()):
            if run.service == placement.service and name not in listed:
                self._stop(run, now_ms)
        self._locality(placement)
        self.models[placement.service].refresh()
        return True

    def _converge(self, name: str, group: str, placed: PlacedInstance, placement: Placement, now_ms: int) -> None:
        run = self.running.get(name)
        if run is None:
            if name not in self.seen and placed.state in STARTS:
                self._start(group, placed, placement, now_ms)
            return
        engine = run.engine
        engine.routable = placed.routable
        if placed.state is InstanceState.DRAINING and engine.state is EngineState.SERVING:
            engine.state = EngineState.DRAINING
        elif placed.state is InstanceState.READY and engine.state is EngineState.DRAINING:
            engine.state = EngineState.SERVING
        elif placed.state in {InstanceState.STOPPING, InstanceState.FAILED}:
            self._stop(run, now_ms)

    def _start(self, group: str, placed: PlacedInstance, placement: Placement, now_ms: int) -> None:
        self.seen.add(placed.id)
        engine = Engine(
            name=placed.id,
            role=placed.role,
            gpu_type=placed.gpu_type,
            gpus=sum(placed.nodes.values()),
            nodes=tuple(sorted(placed.nodes)),
            group=group,
            started_at_ms=now_ms,
        )
        run = Running(engine, placement.service, placement.fleet, now_ms + self._startup_ms(placed.id, placement.service))
        self.running[placed.id] = run
        self.models[placement.service].engines[placed.id] = engine
        self._say(run, ActuationKind.STARTING, now_ms)

    def _startup_ms(self, name: str, service: str) -> int:
        """Evenly spread around the profile's start-up time; a function of name and seed alone."""
        profile = self.models[service].curves.profile
        draw = int(short_hash(f"{self.seed}|{name}"), 16) / 2**64
        return round(profile.startup_s * 1000 * (1 + profile.startup_spread * (2 * draw - 1)))

    def _stop(self, run: Running, now_ms: int) -> None:
        if run.stop_at_ms is not None:
            return
        drain_ms = round(self.models[run.service].curves.profile.drain_s * 1000)
        run.stop_at_ms = now_ms + (ABORT_MS if run.engine.state is EngineState.LOADING else drain_ms)
        run.engine.state = EngineState.STOPPING
        run.engine.routable = False

    def _locality(self, placement: Placement) -> None:
        """Bandwidth between the pairs: groups that span s2 hand over more slowly."""
        prefills = [
            ACROSS_S2 if group.domain.s2 is None else 1.0
            for group in placement.groups
            for placed in group.instances
            if "prefill" in placed.role
        ]
        self.models[placement.service].locality = sum(prefills) / len(prefills) if prefills else 1.0

    def advance(self, now_ms: int) -> None:
        """Engines whose time has come get ready or end."""
        changed: set[str] = set()
        for name, run in sorted(self._pending(), key=lambda item: item[0]):
            if run.stop_at_ms is not None:
                if now_ms >= run.stop_at_ms:
                    self._say(run, ActuationKind.STOPPED, run.stop_at_ms)
                    self._remove(name)
                    changed.add(run.service)
            elif run.engine.state is EngineState.LOADING and now_ms >= run.ready_at_ms:
                run.engine.state = EngineState.SERVING
                self._say(run, ActuationKind.READY, run.ready_at_ms)
                changed.add(run.service)
        for service in sorted(changed):
            self.models[service].refresh()

    def next_change_ms(self) -> int | None:
        """When the next engine gets ready or ends."""
        changes = sum(model.changes for model in self.models.values())
        if self.expected[0] != changes:
            times = (run.stop_at_ms if run.stop_at_ms is not None else run.ready_at_ms for _, run in self._pending())
            self.expected = (changes, min(times, default=None))
        return self.expected[1]

    def _pending(self) -> list[tuple[str, Running]]:
        loading = EngineState.LOADING
        return [(name, run) for name, run in self.running.items() if run.stop_at_ms is not None or run.engine.state is loading]

    def of(self, service: str) -> list[Running]:
        """The processes of a service."""
        return [run for run in self.running.values() if run.service == service]

    def crash(self, name: str, now_ms: int) -> None:
        """A process ends by itself, and its supervisor says so."""
        run = self.running[name]
        self._say(run, ActuationKind.FAILED, now_ms, "process ended")
        self._remove(name)
        self.models[run.service].refresh()

    def lose(self, nodes: Iterable[str]) -> None:
        """Nodes go dark: what ran there is gone, and nobody says so."""
        dark = set(nodes)
        for name, run in sorted(self.running.items()):
            if dark & set(run.engine.nodes):
                self.dead[name] = run
                self._remove(name)
                self.models[run.service].refresh()

    def heal(self, nodes: Iterable[str], now_ms: int) -> None:
        """Nodes are back, and their agents report what is no longer there."""
        back = set(nodes)
        for name, run in sorted(self.dead.items()):
            if back & set(run.engine.nodes):
                self._say(run, ActuationKind.FAILED, now_ms, "node was lost")
                del self.dead[name]

    def _remove(self, name: str) -> None:
        run = self.running.pop(name)
        self.models[run.service].engines.pop(name)

    def _say(self, run: Running, kind: ActuationKind, at_ms: int, detail: str | None = None) -> None:
        self.outbox.append(
            Actuation(
                service=run.service, fleet=run.fleet, instance=run.engine.name, at_ms=at_ms, kind=kind, actuator=ACTUATOR, detail=detail
            ),
        )

    def take_outbox(self) -> list[Actuation]:
        """Acknowledgements since the last call, in the order of their time."""
        said, self.outbox = self.outbox, []
        return sorted(said, key=lambda actuation: (actuation.at_ms, actuation.instance))
