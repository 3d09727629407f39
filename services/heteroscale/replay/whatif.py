"""What would have been decided under another spec, another version, or without an instance: exact up to the first changed action.

That instant is the horizon. After it the recorded telemetry is no longer what the world would have answered, so the simulator takes
over from the state reached there, twice: once with the recorded policy, which shows how far the simulator is from the truth, and once
with the other. Every figure from it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.units import instant_text
from heteroscale.replay import decision_stage, handover, other_windows
from heteroscale.replay.decider import Decided, Decider, Ours
from heteroscale.replay.decision_stage import Cue
from heteroscale.replay.demand import Demand, Startups
from heteroscale.replay.figures import Figures, Ledger
from heteroscale.replay.handover import Handover
from heteroscale.replay.overrides import Override, applied, check_services
from heteroscale.replay.recorded import Recorded


@dataclass(frozen=True, slots=True)
class Case:
    """What is different. `without`: instances or nodes whose samples are left out."""

    overrides: Sequence[Override] = ()
    without: Sequence[str] = ()
    decider: Callable[[], Decider] = Ours


class Step(msgspec.Struct, frozen=True):
    """One window: what was decided, what would have been, and whether that is exact (else it is simulated)."""

    recorded: Decision
    other: Decision | None
    exact: bool
    window: SignalWindow
    other_window: SignalWindow
    spec: ServiceSpec

    @property
    def changed(self) -> bool:
        """Whether another action would have been taken."""
        return self.other is None or (self.other.action, self.other.after) != (self.recorded.action, self.recorded.after)


class Moved(msgspec.Struct, frozen=True):
    """A decision in short."""

    action: str
    reason: str
    before: dict[str, int]
    after: dict[str, dict[str, int]]


class Change(msgspec.Struct, frozen=True):
    """One decision that would have been another."""

    at_ms: int
    exact: bool
    decision: str
    recorded: Moved
    instead: Moved | None


class Answer(msgspec.Struct, frozen=True):
    """A service's course under the case. `horizon_ms`: the first changed action; null if nothing would have changed.

    Figures: up to the horizon, where both are one; then what was recorded, and what the simulator makes of the recorded policy and of
    the other one (null where it could not take over; `notes` say why). `reworded`: decisions with the same action and other stages.
    """

    service: ServiceName
    decisions: int
    horizon_ms: int | None
    changed: list[Change]
    reworded: int
    before: Figures
    recorded: Figures
    simulated_as_recorded: Figures | None
    simulated: Figures | None
    startup_ms: int | None
    notes: list[str]


Watch = Callable[[Step], None]


def ask(recorded: Recorded, case: Case, watch: Watch = lambda _step: None) -> list[Answer]:
    """Every service of the bundle, under the case; `watch` hears of each step in order. Raises Rejected."""
    check_services(case.overrides, recorded.bundle.manifest.services)
    world = _World(recorded, other_windows.made_again(recorded, case.overrides, case.without), Demand(recorded))
    return [_Service(world, service, case, watch).ask() for service in sorted(recorded.bundle.manifest.services)]


class _World(NamedTuple):
    """What all services of a bundle share. `windows`: null if the case leaves them as they were recorded."""

    recorded: Recorded
    windows: other_windows.Windows | None
    demand: Demand


class _Service:
    """One service under the case."""

    def __init__(self, world: _World, service: ServiceName, case: Case, watch: Watch) -> None:
        self._recorded = world.recorded
        self._service = service
        self._case = case
        self._windows = world.windows
        self._demand = world.demand
        self._watch = watch
        self._course = decision_stage.course(world.recorded, service)
        self._startups = Startups()
        self._true = self._course.start.spec
        self._spec = self._applied(self._true)
        self._placed = self._course.placements_next
        self._count = 0
        self._reworded = 0
        self._changed: list[Change] = []
        self._notes: list[str] = []
        self._before, self._after = Ledger(), Ledger()

    def _applied(self, spec: ServiceSpec | None) -> ServiceSpec | None:
        return None if spec is None else applied(spec, self._case.overrides)

    def ask(self) -> Answer:
        """Exact to the horizon, simulated after it."""
        ours, theirs = Ours(), self._case.decider()
        cues = self._course.cues()
        try:
            ours.begin(self._course.start)
            theirs.begin(msgspec.structs.replace(self._course.start, spec=self._spec))
            horizon = self._to_horizon(cues, ours, theirs)
            simulated: tuple[Figures | None, Figures | None] = (None, None)
            if horizon is not None:
                simulated = self._beyond(cues, horizon, ours, theirs)
        finally:
            theirs.close()
        took = sorted(self._startups.took.values())
        return Answer(
            service=self._service,
            decisions=self._count,
            horizon_ms=None if horizon is None else horizon.window.end_ms,
            changed=self._changed,
            reworded=self._reworded,
            before=self._before.figures(),
            recorded=self._after.figures(),
            simulated_as_recorded=simulated[0],
            simulated=simulated[1],
            startup_ms=took[len(took) // 2] if took else None,
            notes=list(dict.fromkeys([*self._notes, *self._of_windows()])),
        )

    def _of_windows(self) -> list[str]:
        return [] if self._windows is None else self._windows.notes(self._service)

    def _to_horizon(self, cues: Iterator[Cue], ours: Ours, theirs: Decider) -> _Horizon | None:
        """Decide as recorded and otherwise, until an action differs."""
        for cue in cues:
            self._learn(cue, ours, theirs)
            if self._true is None or self._spec is None:
                continue
            for placement in cue.placements:
                ours.place(placement.message, placement.record)
                theirs.place(placement.message, placement.record)
                self._placed = placement.record.offset + 1
            window = cue.window.message
            other = window if self._windows is None else self._windows.instead_of(window)
            if other is None:
                self._notes.append(f"decisions from {instant_text(window.end_ms)} on left out: no telemetry for their windows")
                return None
            mine, instead = ours.decide(window, cue.window.record), theirs.decide(other, cue.window.record)
            step = Step(cue.recorded.message, instead.decision, True, window, other, self._spec)
            self._take(step)
            if step.changed:
                self._after.add(self._true, window, step.recorded, self._true)
                return _Horizon(window, Decided(step.recorded, mine.command), instead)
            self._before.add(self._true, window, step.recorded, self._true)
        return None

    def _learn(self, cue: Cue, ours: Ours, theirs: Decider) -> None:
        if cue.spec is None:
            return
        record, self._true = cue.spec
        self._spec = self._applied(self._true)
        ours.learn(self._true, record)
        theirs.learn(self._spec, record)

    def _take(self, step: Step) -> None:
        """Note what a step says."""
        self._count += 1
        if step.changed:
            self._changed.append(_change(step))
        elif step.other is not None and step.other.stages != step.recorded.stages:
            self._reworded += 1
        self._watch(step)

    def _beyond(self, cues: Iterator[Cue], horizon: _Horizon, ours: Ours, theirs: Decider) -> tuple[Figures | None, Figures | None]:
        """The simulator's part: the recorded policy's course and the other one's, as far as the recording goes."""
        for one in self._recorded.placements_of(self._service):
            self._startups.see(one.message)
        judge = self._true
        assert judge is not None  # noqa: S101 - there was a decision
        base, instead = None, None
        try:
            base = self._simulated(horizon, horizon.recorded, judge, ours, lambda _window, _decision: None)
            if self._spec is None or horizon.instead.decision is None:
                self._notes.append("not simulated: the policy gave no decision at the horizon")
            else:
                instead = self._simulated(horizon, horizon.instead, self._spec, theirs, lambda *made: self._meanwhile(cues, judge, made))
        except Rejected as error:
            if error.code != "not_simulated":
                raise
            self._notes.append(f"not simulated: {error.message}")
        for cue in cues:
            self._count += 1
            self._after.add(judge, cue.window.message, cue.recorded.message, judge)
        return base, instead

    def _meanwhile(self, cues: Iterator[Cue], judge: ServiceSpec, made: tuple[SignalWindow, Decision | None]) -> None:
        """Beside a simulated window and its decision, the recorded ones."""
        cue = next(cues, None)
        if cue is not None and self._spec is not None:
            self._after.add(judge, cue.window.message, cue.recorded.message, judge)
            self._take(Step(cue.recorded.message, made[1], False, cue.window.message, made[0], self._spec))

    def _simulated(self, horizon: _Horizon, decided: Decided, spec: ServiceSpec, decider: Decider, watch: handover.Watch) -> Figures:
        """One course in the simulator, from the decision at the horizon on. Raises Rejected (`not_simulated`)."""
        judge, ledger = self._true, Ledger()
        assert judge is not None  # noqa: S101 - there was a decision

        def hear(window: SignalWindow, decision: Decision | None) -> None:
            ledger.add(spec, window, decision, judge)
            watch(window, decision)

        ledger.add(spec, horizon.window, decided.decision, judge)
        size_ms = spec.window.size.ms
        later = [one for record, one in self._recorded.specs.get(self._service, ()) if one is not None and _later(one, judge)]
        changed = later if spec is judge else [applied(one, self._case.overrides) for one in later]
        given = Handover(
            service=self._service,
            spec=spec,
            window=horizon.window,
            decided=decided,
            placements_next=self._placed,
            windows=self._recorded.windows_between(self._service, horizon.window.end_ms - size_ms, 2**62),
            demand=self._demand,
            startups=self._startups,
            specs=[(one.applied_at_ms or 0, one) for one in changed],
        )
        outcome = handover.play(self._recorded, given, decider, hear)
        self._notes += outcome.notes
        return ledger.figures(outcome.in_slo)


class _Horizon(NamedTuple):
    """The first window with another action, and both decisions on it."""

    window: SignalWindow
    recorded: Decided
    instead: Decided


def _later(one: ServiceSpec, than: ServiceSpec) -> bool:
    return (one.revision or 0) > (than.revision or 0)


def _change(step: Step) -> Change:
    other = None if step.other is None else _moved(step.other)
    return Change(step.recorded.at_ms, step.exact, step.recorded.id, _moved(step.recorded), other)


def _moved(decision: Decision) -> Moved:
    before = {role: count.replicas for role, count in sorted(decision.before.items())}
    after = {role: {"replicas": count.replicas, "draining": count.draining} for role, count in sorted(decision.after.items())}
    return Moved(decision.action.value, decision.reason.value, before, after)
