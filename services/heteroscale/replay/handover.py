"""Beyond the horizon of a counterfactual: the simulator's world takes over from the recorded state, and the decider goes on in it.

Production code decides and places; engines, and only engines, are modelled. Demand is what the recorded windows saw. Nodes fail and
come back when they did. Other services of the fleet keep what they held at the horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.contracts.names import DecisionId, NodeName, ServiceName
from heteroscale.contracts.placements import Domain, Group, InstanceState, PlacedInstance, Placement, PlacementStatus, Pool
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import PlacementSpec, ServiceSpec
from heteroscale.contracts.telemetry import EngineState
from heteroscale.placement import rebuild, state
from heteroscale.placement.inventory.entries import FleetImage
from heteroscale.placement.inventory.protocol import Build
from heteroscale.placement.nodes import NodeChange
from heteroscale.placement.rebuild import Remains
from heteroscale.replay import demand, standing
from heteroscale.replay.decider import Decided, Decider
from heteroscale.replay.demand import Demand, Startups
from heteroscale.replay.recorded import Recorded, Shelf
from heteroscale.simulator.cluster.actuator import Actuator, Running
from heteroscale.simulator.cluster.faults import Fault, FaultKind
from heteroscale.simulator.cluster.world import STEP_MS, Scene, World
from heteroscale.simulator.cores import direct
from heteroscale.simulator.cores.direct import Direct
from heteroscale.simulator.cores.site import Site, at_once
from heteroscale.simulator.figures.report import Tally
from heteroscale.simulator.load.traffic import REQUESTS
from heteroscale.simulator.model import curves as engine_curves
from heteroscale.simulator.model import service
from heteroscale.simulator.model.pool import Engine
from heteroscale.simulator.model.service import ServiceModel

SEED: Final = 1
MADE_UP: Final = "simulated"
STATES: Final = {
    InstanceState.RESERVED: EngineState.LOADING,
    InstanceState.STARTING: EngineState.LOADING,
    InstanceState.READY: EngineState.SERVING,
    InstanceState.DRAINING: EngineState.DRAINING,
    InstanceState.STOPPING: EngineState.STOPPING,
}
Watch = Callable[[SignalWindow, Decision | None], None]


@dataclass(frozen=True, slots=True)
class Handover:
    """What is handed over: the window at the horizon, its decision, how far placements had been read, and what is still to come.

    `windows`: those recorded from one window length before the horizon to the end; `demand`: what was served meanwhile. `specs`: later
    revisions, by the window end from which they count.
    """

    service: ServiceName
    spec: ServiceSpec
    window: SignalWindow
    decided: Decided
    placements_next: int
    windows: Shelf[SignalWindow]
    demand: Demand
    startups: Startups
    specs: Sequence[tuple[int, ServiceSpec]] = ()


@dataclass(slots=True)
class Outcome:
    """What the simulated part came to. `notes`: what a reader must know of it."""

    in_slo: float | None
    notes: list[str] = field(default_factory=list)


def play(recorded: Recorded, here: Handover, decider: Decider, watch: Watch) -> Outcome:
    """From the horizon to the end of the recording; `watch` hears of each window and its decision.

    Raises Rejected (`not_simulated`) where the simulator cannot take over.
    """
    problem = direct.can_play([here.spec])
    if problem is not None:
        raise Rejected("not_simulated", problem, here.service)
    spec, notes = here.spec, list[str]()
    if spec.placement == "none":
        spec = msgspec.structs.replace(spec, placement=PlacementSpec())
        decider.learn(spec, None)
        notes.append("placement is none: simulated with the default placement")
    fleet = _fleet_at(recorded, here, spec, notes)
    model, faster = _model(here, spec)
    notes += [
        f"{role} engines taken {factor:g} times as fast as the measured curve, since the recording shows it" for role, factor in faster
    ]
    world = _world(recorded, here, model, fleet)
    start_ms, end_ms = here.window.end_ms, here.windows[-1].message.end_ms
    tally = Tally(spec, start_ms, end_ms, {})
    run = Direct(world, {here.service: _Handed(here, decider, model, watch)}, {here.service: tally})
    run.sites, run.unsaid = {spec.fleet: _site(fleet, here.service)}, []
    phase_ms = spec.window.interval.ms + spec.window.allowed_lateness.ms
    cordons = _cordons(recorded, spec, start_ms)

    def on_hop(now: World, _seen: object) -> None:
        while cordons and cordons[0][0] <= now.now_ms:
            node = cordons.pop(0)[1]
            now.nodes[node.node] = node
            run.unsaid.append(node)

    run.play(end_ms + phase_ms, on_hop)
    counted = (start_ms - world.scene.opens_at_ms) // STEP_MS
    figures = tally.figures(float(model.load[counted:, REQUESTS].sum()))
    stated = service.slo_s(spec, "ttft") is not None or service.slo_s(spec, "tbt") is not None
    return Outcome(figures.in_slo / figures.requests if stated and figures.requests else None, notes)


class _Handed:
    """The decider inside the simulator: the decision at the horizon as it was made, its own from there on."""

    def __init__(self, here: Handover, decider: Decider, model: ServiceModel, watch: Watch) -> None:
        self._here = here
        self._decider = decider
        self._model = model
        self._watch = watch
        self._specs = list(here.specs)

    def window(self, window: SignalWindow) -> tuple[Decision, Command | None]:
        """See direct.Decider."""
        first = self._here.decided
        if window.end_ms <= self._here.window.end_ms:
            assert first.decision is not None  # noqa: S101 - without a decision nothing is handed over
            return first.decision, first.command
        while self._specs and self._specs[0][0] <= window.end_ms:
            _, spec = self._specs.pop(0)
            if spec.window == self._model.spec.window:
                self._model.spec = spec
                self._decider.learn(spec, None)
                window = msgspec.structs.replace(window, spec_revision=spec.revision)
        decided = self._decider.decide(window, None)
        if decided.decision is None:
            raise Rejected("not_simulated", "the policy gave no decision for a simulated window", self._here.service)
        self._watch(window, decided.decision)
        return decided.decision, decided.command

    def placed(self, placement: Placement) -> None:
        """See direct.Decider."""
        self._decider.place(placement, None)


class _Site(Site):
    """The fleet's site, which speaks of one service: the others keep what they held."""

    service: ServiceName = ""

    def cycle(self, events: Sequence[Command | Actuation], nodes: Sequence[FleetNode]) -> list[Placement]:
        """See Site."""
        return [one for one in super().cycle(events, nodes) if one.service == self.service]


@dataclass(frozen=True, slots=True)
class _Fleet:
    """A fleet at the horizon."""

    name: str
    nodes: dict[NodeName, NodeChange]
    placements: dict[ServiceName, Placement]
    image: FleetImage


def _fleet_at(recorded: Recorded, here: Handover, spec: ServiceSpec, notes: list[str]) -> _Fleet:
    """As recorded; made up, large enough, for a service that was never placed."""
    at_ms = here.window.end_ms
    own = standing.placement_until(recorded, here.service, at_ms, here.placements_next)
    if own is None:
        notes.append("no placement was recorded: simulated on a fleet that has room for everything")
        return _made_up(here, spec)
    nodes = standing.nodes_at(recorded, spec.fleet, at_ms)
    placements = {here.service: own}
    for name in standing.services_of(recorded, spec.fleet):
        peer = None if name == here.service else standing.placement_until(recorded, name, at_ms)
        if peer is not None:
            placements[name] = peer
    if len(placements) > 1:
        notes.append("other services of the fleet keep what they held at the horizon")
    commands = standing.answered(recorded, placements)
    image = rebuild.image(Remains(fleet=spec.fleet, gen=own.gen, placements=placements, records=nodes, commands=commands))
    services = {name: standing.as_of(recorded, entry, placements[name]) for name, entry in image.services.items()}
    return _Fleet(spec.fleet, nodes, placements, msgspec.structs.replace(image, services=services))


def _made_up(here: Handover, spec: ServiceSpec) -> _Fleet:
    """A node an instance, in one place; what the window counted runs on the first ones."""
    at_ms = here.window.end_ms
    nodes: dict[NodeName, NodeChange] = {}
    instances: list[PlacedInstance] = []
    for role, of_role in sorted(spec.roles.items()):
        seen = here.window.roles.get(role)
        counts = None if seen is None else seen.instances
        running = 0 if counts is None else counts.serving + counts.silent + counts.loading
        gpu_type = of_role.gpu_types[0].type if of_role.gpu_types else MADE_UP
        gpus = of_role.gpus or 1
        for number in range(max(running, min(of_role.max, 4 * running + 16))):
            name = f"{MADE_UP}-{role}-{number:04d}"
            record = FleetNode(node=name, fleet=spec.fleet, gpu_type=gpu_type, gpus=gpus, at=NodeAt(cluster=MADE_UP, s2="a", s1="a1"))
            nodes[name] = NodeChange(node=name, record=record, revision=len(nodes))
            if number < running:
                instances.append(
                    PlacedInstance(
                        id=name, role=role, gpu_type=gpu_type, nodes={name: gpus},
                        state=InstanceState.READY, since_ms=at_ms, routable=True,
                    )
                )  # fmt: skip
    group = Group(id=MADE_UP, domain=Domain(cluster=MADE_UP, s2="a", s1="a1"), pool=Pool.LOW, instances=instances)
    own = Placement(
        service=here.service, fleet=spec.fleet, revision=0, command_id=DecisionId(MADE_UP), seq=1, gen=1, at_ms=at_ms - 1,
        status=PlacementStatus.CONVERGED, groups=[group] if instances else [],
    )  # fmt: skip
    placements = {here.service: own}
    return _Fleet(spec.fleet, nodes, placements, rebuild.image(Remains(fleet=spec.fleet, gen=1, placements=placements, records=nodes)))


def _site(fleet: _Fleet, of: ServiceName) -> Site:
    """The placement service on the inventory as it stood."""
    site = _Site(fleet.name)
    site.service = of
    fence = at_once(site.inventory.take_fence(fleet.name))
    at_once(site.inventory.build(Build(fleet=fleet.name, fence=fence, old_gen=site.known.gen, image=fleet.image)))
    read = at_once(site.inventory.read(fleet.name))
    assert read is not None  # noqa: S101 - it was built here
    site.known = state.from_image(fleet.name, fence, read)
    site.revision = 1 + max((change.revision for change in fleet.nodes.values()), default=0)
    return site


def _model(here: Handover, spec: ServiceSpec) -> tuple[ServiceModel, list[tuple[str, float]]]:
    """The service under its recorded demand, from one window before the horizon."""
    opens_ms = here.window.end_ms - spec.window.size.ms
    rows = here.demand.since(here.service, opens_ms)
    if not rows:
        raise Rejected("not_simulated", "the bundle holds no telemetry from which demand could be told", here.service)
    chosen, faster = demand.fast_enough(spec, engine_curves.choose(spec, None), _messages(here.windows))
    chosen = demand.with_startup(chosen, here.startups.took)
    model = service.model_of(spec, chosen, demand.traffic(here.service, rows, opens_ms), STEP_MS / 1000, SEED)
    return model, sorted(faster.items())


def _messages(windows: Shelf[SignalWindow]) -> Iterator[SignalWindow]:
    return (one.message for one in windows)


def _world(recorded: Recorded, here: Handover, model: ServiceModel, fleet: _Fleet) -> World:
    """The world one window before the horizon, so that the first simulated window is the one after it."""
    spec, start_ms = model.spec, here.window.end_ms
    opens_ms = start_ms - spec.window.size.ms
    nodes = {name: change.record for name, change in sorted(fleet.nodes.items()) if change.record is not None}
    scene = Scene([spec], [], list(nodes.values()), opens_ms, recorded.bundle.prefix, seed=SEED, warmup_ms=0)
    actuator = Actuator({here.service: model}, SEED)
    world = World(scene, {here.service: model}, actuator, nodes, opens_ms)
    placement = fleet.placements[here.service]
    actuator.newest[here.service] = (placement.gen, placement.seq or 0)
    for group in placement.groups:
        for placed in group.instances:
            _bring_up(actuator, placement, group, placed, start_ms)
    actuator.lose(name for name, node in nodes.items() if node.state is NodeState.LOST)
    model.refresh()
    for number, (at_ms, node) in enumerate(_changes(recorded, spec, start_ms)):
        if node.state is not NodeState.CORDONED:
            lost = node.state is NodeState.LOST
            world.due.append((at_ms, number, Fault(FaultKind.NODE, node.node, at_ms - opens_ms, None), not lost))
    world.due.sort(key=lambda due: due[:2])
    return world


def _bring_up(actuator: Actuator, placement: Placement, group: Group, placed: PlacedInstance, now_ms: int) -> None:
    """An engine as the placement has it at the horizon; one that has failed runs no more."""
    actuator.seen.add(placed.id)
    engine_state = STATES.get(placed.state)
    if engine_state is None:
        return
    model = actuator.models[placement.service]
    engine = Engine(
        name=placed.id, role=placed.role, gpu_type=placed.gpu_type, gpus=sum(placed.nodes.values()), nodes=tuple(sorted(placed.nodes)),
        group=group.id, started_at_ms=placed.since_ms, state=engine_state, routable=placed.routable,
    )  # fmt: skip
    starts = engine_state is EngineState.LOADING
    startup_ms = round(model.curves.profile.startup_s * 1000)
    ready_at_ms = max(now_ms + STEP_MS, placed.since_ms + startup_ms) if starts else placed.since_ms
    stop_at_ms = now_ms + STEP_MS if engine_state is EngineState.STOPPING else None
    actuator.running[placed.id] = Running(engine, placement.service, placement.fleet, ready_at_ms, stop_at_ms)
    model.engines[placed.id] = engine


def _changes(recorded: Recorded, spec: ServiceSpec, since_ms: int) -> list[tuple[int, FleetNode]]:
    """Later records of the fleet's nodes; those of removal are left out."""
    found = []
    for _, record in recorded.fleet(spec.fleet):
        if record.timestamp_ms > since_ms and record.value is not None:
            found.append((record.timestamp_ms, codec.decode(FleetNode, record.value)))
    return found


def _cordons(recorded: Recorded, spec: ServiceSpec, since_ms: int) -> list[tuple[int, FleetNode]]:
    return [(at_ms, node) for at_ms, node in _changes(recorded, spec, since_ms) if node.state is NodeState.CORDONED]
