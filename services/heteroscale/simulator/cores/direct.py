"""The loop without a log: the production cores of decision and placement called one after the other, hop by hop.

For large fleets and for many runs. The rules of time are the lockstep's: a window that ends at E is decided at the first boundary
at or after E + interval + lateness, and what is placed then takes effect then. Telemetry is not made; see `panes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.names import RoleName
from heteroscale.contracts.placements import Placement, PlacementStatus
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec, WindowSpec
from heteroscale.contracts.telemetry import EngineState
from heteroscale.decision import controller
from heteroscale.simulator.cluster.world import STEP_MS, World
from heteroscale.simulator.cores.looks import Ghost
from heteroscale.simulator.cores.panes import Inside, Look, Panes
from heteroscale.simulator.cores.site import Site
from heteroscale.simulator.figures.report import Tally
from heteroscale.simulator.figures.seen import Seen, rhythm
from heteroscale.simulator.model import fluid
from heteroscale.simulator.model.fluid import Strength
from heteroscale.simulator.model.service import ServiceModel


class Decider(Protocol):
    """The decision service of one service."""

    def window(self, window: SignalWindow) -> tuple[Decision, Command | None]:
        """Decide a window."""
        ...

    def placed(self, placement: Placement) -> None:
        """Hear of a placement."""
        ...


class Ours:
    """The production controller."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.state, _ = controller.step(controller.ServiceState(spec.service), spec)

    def window(self, window: SignalWindow) -> tuple[Decision, Command | None]:
        """See Decider."""
        self.state, effects = controller.step(self.state, window)
        if effects.decision is None:
            raise Rejected("window", "windows must come in ascending order", window.service)
        return effects.decision, effects.command

    def placed(self, placement: Placement) -> None:
        """See Decider."""
        self.state, _ = controller.step(self.state, placement)


OnHop = Callable[[World, Seen], None]


@dataclass(slots=True)
class _Played:
    """What is kept of one service while it is played."""

    panes: Panes
    decider: Decider
    tally: Tally
    strength: Strength
    changes: int
    looks: dict[RoleName, Look] = field(default_factory=dict)
    windows: list[SignalWindow] = field(default_factory=list)

    def count(self) -> None:
        """Count the engines if any has changed."""
        model = self.panes.model
        if self.changes != model.changes:
            self.changes, self.strength = model.changes, fluid.strength_of(model)


@dataclass(slots=True)
class Direct:
    """One run. `deciders` and `tallies` by service."""

    world: World
    deciders: dict[str, Decider]
    tallies: dict[str, Tally]
    inside: Inside = Inside.LAST
    seen: Seen = field(default_factory=Seen)
    commands: dict[str, Command] = field(default_factory=dict)
    played: dict[str, _Played] = field(init=False)
    sites: dict[str, Site] = field(init=False)
    unsaid: list[FleetNode] = field(init=False)

    def __post_init__(self) -> None:
        models = self.world.models
        self.played = {
            name: _Played(Panes(model, self.inside), self.deciders[name], self.tallies[name], fluid.strength_of(model), model.changes)
            for name, model in sorted(models.items())
        }
        self.sites = {fleet: Site(fleet) for fleet in sorted({node.fleet for node in self.world.nodes.values()})}
        self.unsaid = [node for _, node in sorted(self.world.nodes.items())]

    def play(self, until_ms: int, on_hop: OnHop) -> None:
        """Hop by hop until `until_ms` has been reached."""
        here = self.world
        hop, phase = rhythm(list(here.specs.values()))
        boundary = here.now_ms - here.now_ms % hop + phase
        while here.now_ms < until_ms:
            boundary += hop if boundary <= here.now_ms else 0
            self._advance(boundary)
            said = here.actuator.take_outbox()
            self._place(said, self._decide(boundary))
            on_hop(here, self.seen)

    def _advance(self, until_ms: int) -> None:
        """Serve up to `until_ms` in stretches in which no engine changes."""
        here = self.world
        while here.now_ms < until_ms:
            cut = self._next_cut(until_ms)
            for name, played in self.played.items():
                self._serve(here.models[name], played, cut)
            here.now_ms = cut
            self._change()
            for played in self.played.values():
                self._mark(played, cut)

    def _next_cut(self, until_ms: int) -> int:
        """The next step's end at which a fault is due or an engine gets ready or ends."""
        here = self.world
        cuts = [until_ms]
        if here.due:
            cuts.append(here.due[0][0])
        change = here.actuator.next_change_ms()
        if change is not None:
            cuts.append(change)
        first = min(cuts)
        return max(here.now_ms + STEP_MS, first + (-first) % STEP_MS)

    def _serve(self, model: ServiceModel, played: _Played, until_ms: int) -> None:
        """Serve a service up to `until_ms`; windows that end or are looked at before then are dealt with on the way."""
        now_ms = self.world.now_ms
        first = (now_ms - self.world.scene.opens_at_ms) // STEP_MS
        last = min((until_ms - self.world.scene.opens_at_ms) // STEP_MS, len(model.load))
        stretch = None
        if first < last:
            served = fluid.serve(model, first, last, STEP_MS / 1000, played.strength)
            latency = fluid.latency(model, served, played.panes.edges)
            played.tally.served(now_ms, STEP_MS, served, latency, played.strength)
            stretch = played.panes.stretch(served, latency, played.strength)
        done = 0
        for mark in (*_marks(model.spec.window, now_ms, until_ms), until_ms):
            if stretch is not None:
                upto = min((mark - now_ms) // STEP_MS, last - first)
                played.panes.add(stretch, done, upto)
                done = upto
            if mark < until_ms:
                self._mark(played, mark)

    def _mark(self, played: _Played, at_ms: int) -> None:
        """The look at a window's last sample, and the end of a hop."""
        rules = played.panes.model.spec.window
        if (at_ms + rules.interval.ms) % rules.hop.ms == 0:
            played.looks = played.panes.look(at_ms, self.world.actuator.of(played.panes.model.spec.service))
        if at_ms % rules.hop.ms == 0:
            played.panes.close()
            if at_ms >= self.world.scene.opens_at_ms + rules.size.ms:
                played.windows.append(played.panes.window(at_ms, played.looks))

    def _change(self) -> None:
        """Faults that are due, engines that get ready or end."""
        here = self.world
        change = here.actuator.next_change_ms()
        faulty = bool(here.due) and here.due[0][0] <= here.now_ms
        if not faulty and (change is None or change > here.now_ms):
            return
        if faulty:
            before = dict(here.actuator.running)
            here.strike()
            for name in sorted(before.keys() - here.actuator.running.keys()):
                run = before[name]
                if run.engine.state is EngineState.SERVING:
                    interval = here.models[run.service].spec.window.interval.ms
                    self.played[run.service].panes.roster.ghosts.append(Ghost(run.engine.role, (here.now_ms - 1) // interval * interval))
            self.unsaid += here.restated
            here.restated = []
        here.actuator.advance(here.now_ms)
        for played in self.played.values():
            played.count()

    def _decide(self, boundary: int) -> list[Command]:
        commands = []
        for name, played in self.played.items():
            rules = self.world.models[name].spec.window
            while played.windows and played.windows[0].end_ms + rules.interval.ms + rules.allowed_lateness.ms <= boundary:
                window = played.windows.pop(0)
                decision, command = played.decider.window(window)
                self.seen.windows[name] = window
                self.seen.decisions[name] = decision
                if decision.action != "hold":
                    self.seen.moves.append(decision)
                played.tally.decision(decision)
                if command is not None and not command.dry_run:
                    commands.append(command)
        return commands

    def _place(self, said: Sequence[Actuation], commands: Sequence[Command]) -> None:
        """A cycle a fleet, unless all it could do is to affirm what has converged."""
        for fleet, site in self.sites.items():
            acks = [ack for ack in said if ack.fleet == fleet]
            nodes = [node for node in self.unsaid if node.fleet == fleet]
            quiet = not (acks or nodes)
            orders = [command for command in commands if command.fleet == fleet and not (quiet and self._affirms(command))]
            self.commands |= {command.service: command for command in orders}
            if not (orders or acks or nodes):
                continue
            for placement in site.cycle([*orders, *acks], nodes):
                self._carry_out(placement)
        self.unsaid = []

    def _affirms(self, command: Command) -> bool:
        known = self.seen.placements.get(command.service)
        return known is not None and known.revision == command.revision and known.status is PlacementStatus.CONVERGED

    def _carry_out(self, placement: Placement) -> None:
        played = self.played[placement.service]
        played.decider.placed(placement)
        if placement.dry_run or placement.seq is None:
            return
        self.seen.placements[placement.service] = placement
        played.tally.placement(placement)
        self.world.actuator.placed(placement, self.world.now_ms)
        played.count()


def _marks(rules: WindowSpec, from_ms: int, until_ms: int) -> list[int]:
    """Moments between the two, both excluded, at which a hop ends or a window is looked at for the last time."""
    ends = range(from_ms - from_ms % rules.hop.ms, until_ms + rules.hop.ms + 1, rules.hop.ms)
    return sorted({at for end in ends for at in (end - rules.interval.ms, end) if from_ms < at < until_ms})


def can_play(specs: Sequence[ServiceSpec]) -> str | None:
    """Why these specs cannot be played this way; null if they can."""
    for spec in specs:
        rules = spec.window
        phase = rules.interval.ms + rules.allowed_lateness.ms
        if any(length % STEP_MS for length in (rules.hop.ms, rules.interval.ms, phase)):
            return f"{spec.service}: hop, interval and lateness must be multiples of {STEP_MS // 1000} s"
    return None
