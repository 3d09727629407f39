"""The world: services under load on a fleet, in virtual time. Placements go in; telemetry, ticks and acknowledgements come out.

Pure of I/O: `advance` returns what is to be appended, `placed` takes what was read. Who waits for whom is lockstep's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from heteroscale.bus.log import Entry
from heteroscale.contracts import codec, keys
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode, NodeState
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.spec import Mode, PlacementSpec, ServiceSpec
from heteroscale.contracts.telemetry import InstanceSample, Samples, Tick
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.contracts.units import Duration
from heteroscale.simulator.cluster import fleet
from heteroscale.simulator.cluster.actuator import Actuator
from heteroscale.simulator.cluster.distortion import Distortion
from heteroscale.simulator.cluster.faults import TELEMETRY_FAULTS, Fault, FaultKind
from heteroscale.simulator.load.traffic import Floats, Traffic
from heteroscale.simulator.model import curves, service
from heteroscale.simulator.model.pool import Kind
from heteroscale.simulator.model.service import ServiceModel

STEP_MS: Final = 5_000
RECORD_SAMPLES_MAX: Final = 500  # samples a telemetry record, as an agent would batch them
NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """What is played. The trace starts at `start_ms`; `warmup_ms` before it lead up to its first rate, uncounted."""

    specs: Sequence[ServiceSpec]
    traffic: Sequence[Traffic]
    nodes: Sequence[FleetNode]
    start_ms: int
    prefix: str
    profile: str | None = None
    seed: int = 1
    faults: Sequence[Fault] = ()
    warmup_ms: int = 2_700_000

    @property
    def opens_at_ms(self) -> int:
        """First moment of virtual time."""
        return self.start_ms - self.warmup_ms

    @property
    def ends_at_ms(self) -> int:
        """End of the longest trace."""
        return self.start_ms + max(round(traffic.duration_s * 1000) for traffic in self.traffic)


@dataclass(frozen=True, slots=True)
class Published:
    """What a stretch of virtual time leaves on the log."""

    entries: list[Entry]
    actuations: list[Actuation]


@dataclass(slots=True)
class World:
    """State of everything that is not ours to decide."""

    scene: Scene
    models: dict[str, ServiceModel]
    actuator: Actuator
    nodes: dict[str, FleetNode]
    now_ms: int
    due: list[tuple[int, int, Fault, bool]] = field(default_factory=list)
    restated: list[FleetNode] = field(default_factory=list)
    distortion: Distortion = field(default_factory=Distortion)

    @property
    def specs(self) -> dict[str, ServiceSpec]:
        """Specs by service, as published."""
        return {name: model.spec for name, model in self.models.items()}

    def opening(self) -> list[Entry]:
        """Specs, fleet and the first tick: what must be on the log before anything can be decided."""
        at = self.scene.opens_at_ms
        entries = [self._entry(Topic.SPECS, name, model.spec, at) for name, model in sorted(self.models.items())]
        entries += [self._entry(Topic.FLEET, keys.node_key(node.fleet, name), node, at) for name, node in sorted(self.nodes.items())]
        return entries

    def ticks(self, at_ms: int) -> list[Entry]:
        """A tick for every partition of telemetry.v1."""
        topic, value = topic_name(self.scene.prefix, Topic.TELEMETRY), codec.encode(Tick(at_ms=at_ms))
        return [Entry(topic, None, value, at_ms, partition) for partition in range(CATALOGUE[Topic.TELEMETRY].partitions)]

    def advance(self, until_ms: int) -> Published:
        """Go on to `until_ms`; samples fall on multiples of each service's interval, the tick at the end."""
        samples: dict[str, list[InstanceSample]] = {name: [] for name in sorted(self.models)}
        rhythms = sorted({STEP_MS, *(model.spec.window.interval.ms for model in self.models.values())})
        while self.now_ms < until_ms:
            step_end = min(until_ms, *(self.now_ms - self.now_ms % every + every for every in rhythms))
            if step_end % STEP_MS == 0:
                index = (step_end - self.scene.opens_at_ms) // STEP_MS - 1
                for model in self.models.values():
                    if index < len(model.load):
                        model.step(index, STEP_MS / 1000)
            self.now_ms = step_end
            self.strike()
            self.actuator.advance(self.now_ms)
            for name, model in sorted(self.models.items()):
                if self.now_ms % model.spec.window.interval.ms == 0:
                    samples[name].extend(self.distortion.pass_on(name, model.samples(self.now_ms), self.now_ms))
        return self._published(samples)

    def placed(self, placement: Placement) -> bool:
        """Carry out an assignment, now."""
        return self.actuator.placed(placement, self.now_ms)

    def _published(self, samples: dict[str, list[InstanceSample]]) -> Published:
        actuations = self.actuator.take_outbox()
        entries = [self._entry(Topic.FLEET, keys.node_key(node.fleet, node.node), node, self.now_ms) for node in self.restated]
        self.restated = []
        entries += [self._entry(Topic.ACTUATIONS, said.fleet, said, said.at_ms) for said in actuations]
        for name, found in samples.items():
            layouts = self._layouts(self.models[name])
            for first in range(0, len(found), RECORD_SAMPLES_MAX):
                part = found[first : first + RECORD_SAMPLES_MAX]
                record = Samples(service=name, source="simulator", layouts=layouts, samples=part)
                entries.append(self._entry(Topic.TELEMETRY, name, record, part[-1].at_ms))
        return Published(entries + self.ticks(self.now_ms), actuations)

    @staticmethod
    def _layouts(model: ServiceModel) -> dict[str, list[float]]:
        return {service.layout_of(kind): service.edges_of(model.spec, kind).tolist() for kind in (Kind.PREFILL, Kind.DECODE)}

    def _entry(self, topic: Topic, key: str, message: msgspec.Struct, at_ms: int) -> Entry:
        return Entry(topic_name(self.scene.prefix, topic), key.encode(), codec.encode(message), at_ms)

    def strike(self) -> None:
        """Faults that are due begin or heal."""
        while self.due and self.due[0][0] <= self.now_ms:
            _, _, fault, heals = self.due.pop(0)
            if fault.kind is FaultKind.INSTANCE:
                self._crash(fault.name)
                continue
            if fault.kind in TELEMETRY_FAULTS:
                (self.distortion.heal if heals else self.distortion.begin)(fault)
                continue
            names = [fault.name] if fault.kind is FaultKind.NODE else fleet.in_domain(list(self.nodes.values()), fault.name)
            for name in names:
                state = NodeState.READY if heals else NodeState.LOST
                self.nodes[name] = fleet.restated(self.nodes[name], state=state, observed_at_ms=self.now_ms)
                self.restated.append(self.nodes[name])
            if heals:
                self.actuator.heal(names, self.now_ms)
            else:
                self.actuator.lose(names)

    def _crash(self, name: str) -> None:
        """The named instance, else the first one of `SERVICE/ROLE`. Raises Rejected with those that run if there is none."""
        wanted, _, role = name.partition("/")
        for instance, run in sorted(self.actuator.running.items()):
            if instance == name or (run.service == wanted and run.engine.role == role):
                self.actuator.crash(instance, self.now_ms)
                return
        first = ", ".join(sorted(self.actuator.running)[:NAMED]) or "none at all"
        at = Duration(self.now_ms - self.scene.start_ms)
        raise Rejected("fault", f"no instance {name} runs {at} into the trace; the first that do are {first}", "--fault")


def build(scene: Scene) -> World:
    """A world at rest at the scene's opening. Raises Rejected for faults that name nothing."""
    models = {}
    for index, (spec, traffic) in enumerate(zip(scene.specs, scene.traffic, strict=True)):
        active = msgspec.structs.replace(
            spec,
            mode=Mode.ACTIVE,
            until=None,
            then=None,
            placement=PlacementSpec() if spec.placement == "none" else spec.placement,
            revision=1,
            applied_at_ms=scene.opens_at_ms,
        )
        model = service.model_of(active, curves.choose(spec, scene.profile), traffic, STEP_MS / 1000, scene.seed * 1_000 + index)
        model.load = np.concatenate([_warm_up(traffic, scene.warmup_ms // STEP_MS), model.load])
        models[spec.service] = model
    nodes = {node.node: fleet.restated(node, observed_at_ms=scene.opens_at_ms) for node in scene.nodes}
    world = World(scene, models, Actuator(models, scene.seed), nodes, scene.opens_at_ms)
    for order, fault in enumerate(scene.faults):
        _check(fault, scene)
        world.due.append((scene.start_ms + fault.at_ms, order, fault, False))
        if fault.heals_at_ms is not None and fault.kind is not FaultKind.INSTANCE:
            world.due.append((scene.start_ms + fault.heals_at_ms, order, fault, True))
    world.due.sort(key=lambda due: due[:2])
    return world


def _warm_up(traffic: Traffic, steps: int) -> Floats:
    """The rate of the trace's first five minutes, reached evenly over two thirds of the steps, shape (steps, 4)."""
    first_s = min(300.0, traffic.duration_s)
    rate = traffic.until(first_s).totals.sum(axis=0) / first_s * (STEP_MS / 1000)
    ramp = np.minimum(1.0, np.arange(1, steps + 1) / max(1.0, steps * 2 / 3))
    return np.asarray(ramp[:, None] * rate)


def _check(fault: Fault, scene: Scene) -> None:
    nodes = scene.nodes
    if scene.start_ms + fault.at_ms >= scene.ends_at_ms:
        at, lasts = Duration(fault.at_ms), Duration(scene.ends_at_ms - scene.start_ms)
        raise Rejected("fault", f"{fault.kind.value}:{fault.name} would strike at {at}, and what is played ends after {lasts}", "--fault")
    targets = {name for spec in scene.specs for name in (spec.service, *(f"{spec.service}/{role}" for role in spec.roles))}
    if fault.kind is FaultKind.INSTANCE:
        roles = sorted(target for target in targets if "/" in target)
        if not any(fault.name == role or fault.name.startswith(f"{role.replace('/', '-')}-") for role in roles):
            raise Rejected("fault", f"no instance {fault.name}; take the first of {', '.join(roles)}, or one by its full name", "--fault")
    if fault.kind in TELEMETRY_FAULTS and fault.name not in targets:
        raise Rejected("fault", f"no telemetry of {fault.name}; have {', '.join(sorted(targets))}", "--fault")
    names = sorted(node.node for node in nodes)
    if fault.kind is FaultKind.NODE and fault.name not in names:
        raise Rejected("fault", f"no node {fault.name}; the first ones are {', '.join(names[:3])}", "--fault")
    if fault.kind is FaultKind.S1 and not fleet.in_domain(nodes, fault.name):
        known = sorted({node.at.s1 for node in nodes})
        raise Rejected("fault", f"no s1 {fault.name}; have {', '.join(known[:8])}", "--fault")


def notes(scene: Scene) -> list[str]:
    """What a person should know of the curves: what is modelled and not measured."""
    found = {note for spec in scene.specs for note in curves.choose(spec, scene.profile).notes}
    found |= {f"{spec.service}: placement is none; played with the default placement" for spec in scene.specs if spec.placement == "none"}
    return sorted(found)
