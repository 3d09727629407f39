"""(signals.v1, placements.v1, specs.v1) → decisions.v1, again: each decision's own cut says which records it had read.

A service starts from the last recorded state before the bundle's window, or from nothing where its first decision is in the
bundle. Between two decisions exactly the placements below the cut are folded, in offset order; the spec is the one below the
cut; the window is the record that the cut ends with.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from heteroscale.bus import partitioning
from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import CATALOGUE, Topic
from heteroscale.contracts.units import instant_text
from heteroscale.decision import controller
from heteroscale.decision.controller import POLICY_VERSION, Effects, ServiceState, Source, Tombstone
from heteroscale.replay import differ
from heteroscale.replay.capture import service_of
from heteroscale.replay.recorded import Found, Recorded
from heteroscale.replay.verdict import Divergence, Gap, Outcome, StageName, StageResult

KNOWN_POLICIES: Final = frozenset({POLICY_VERSION})


@dataclass(frozen=True, slots=True)
class Cue:
    """All that one recorded decision was made from, in order. `spec` null: the one in force stays."""

    recorded: Found[Decision]
    window: Found[SignalWindow]
    placements: tuple[Found[Placement], ...]
    spec: tuple[Record, ServiceSpec | None] | None


@dataclass(frozen=True, slots=True)
class Course:
    """A service's decisions in the bundle: the state to start from and a cue each; `gap` where input ends too early."""

    service: ServiceName
    start: ServiceState
    cues: tuple[Cue, ...]
    gap: Gap | None = None


def course(recorded: Recorded, service: ServiceName) -> Course:
    """What to feed for one service. A decision whose window is not in the bundle ends the course with a gap."""
    return _Courses(recorded, service).build()


def apply(state: ServiceState, cue: Cue) -> tuple[ServiceState, Effects]:
    """One decision again: spec, placements, window."""
    if cue.spec is not None:
        state = with_spec(state, cue.spec)
    for placement in cue.placements:
        state, _ = controller.step(state, placement.message, source_of(placement.record))
    return controller.step(state, cue.window.message, source_of(cue.window.record))


def with_spec(state: ServiceState, change: tuple[Record, ServiceSpec | None]) -> ServiceState:
    """The state after a revision or a tombstone."""
    record, spec = change
    state, _ = controller.step(state, Tombstone(state.service) if spec is None else spec)
    source = source_of(record)
    return msgspec.structs.replace(state, inputs={**state.inputs, source.at: source.next_offset})


def source_of(record: Record) -> Source:
    """Where a record came from, as states count it."""
    return Source(f"{record.topic}-{record.partition}", record.offset + 1)


def verify(recorded: Recorded, *, restart_every: int | None = None) -> StageResult:
    """Every decision after its service's start, and the commands that went with it, byte for byte."""
    result = StageResult(StageName.DECISIONS)
    commands = {_command_key(found.message): found for found in reversed(recorded.commands)}
    for service in sorted(recorded.bundle.manifest.services):
        one = course(recorded, service)
        states = {found.message.law.window_end_ms: found.message for found in recorded.states.get(service, ())}
        state = one.start
        for number, cue in enumerate(one.cues, start=1):
            if cue.recorded.message.policy_version not in KNOWN_POLICIES:
                version = cue.recorded.message.policy_version
                result.unreplayable.append(f"{cue.recorded.place} was decided under policy {version}; this build knows {POLICY_VERSION}")
                break
            state, effects = apply(state, cue)
            _compare(result, cue, effects, states.get(cue.window.message.end_ms), commands)
            if restart_every is not None and number % restart_every == 0:
                kept = codec.decode(DecisionState, codec.encode(state.record()))
                state = controller.from_record(kept, state.spec)
        if one.gap is not None:
            result.gaps.append(one.gap)
    return result


def _compare(
    result: StageResult, cue: Cue, effects: Effects, state: DecisionState | None, commands: Mapping[tuple[object, ...], Found[Command]]
) -> None:
    found, decided = cue.recorded, effects.decision
    number = result.compared + 1
    what = f"{found.message.service} {instant_text(found.message.at_ms)}, {found.message.id}"
    service, at_ms = found.message.service, found.message.at_ms
    if decided is None:
        differences = [differ.Difference("decision", found.message.id, differ.ABSENT)]
        result.differs(Divergence(number, found.place, what, Outcome.DIVERGED, differences, (), service, at_ms))
        return
    same = codec.encode(decided) == found.record.value or decided == found.message
    sent = None if effects.command is None else commands.get(_command_key(effects.command))
    if same and (sent is None or sent.message == effects.command):
        result.same()
        return
    if same and sent is not None and effects.command is not None:
        output = differ.of_messages(sent.message, effects.command)
        result.differs(Divergence(number, sent.place, f"command of {what}", Outcome.DIVERGED, output, (), service, at_ms))
        return
    outcome = Outcome.OTHER_REASON if _same_action(found.message, decided) else Outcome.DIVERGED
    output = differ.of_messages(found.message, decided)
    below = () if state is None or effects.state is None else differ.of_messages(state.law, effects.state.law)
    result.differs(Divergence(number, found.place, what, outcome, output, tuple(below), service, at_ms))


def _same_action(one: Decision, other: Decision) -> bool:
    return (one.action, one.after) == (other.action, other.after)


def _command_key(command: Command) -> tuple[object, ...]:
    """What makes a command the same again: readers keep the first of each."""
    return command.service, command.id, command.at_ms, command.dry_run


class _Courses:
    """Puts one service's records in the order its decisions had them."""

    def __init__(self, recorded: Recorded, service: ServiceName) -> None:
        self._recorded = recorded
        self._service = service
        bundle = recorded.bundle
        partition = partitioning.partition_of(service.encode(), CATALOGUE[Topic.SIGNALS].partitions)
        self._signals_at = bundle.at(Topic.SIGNALS, partition)
        self._placements_at = bundle.at(Topic.PLACEMENTS, partition)
        self._specs_at = bundle.at(Topic.SPECS, 0)
        self._windows = {found.record.offset: found for found in recorded.windows.get(service, ())}
        self._placements = sorted(
            (found for found in recorded.placements if service_of(found.record) == service), key=lambda found: found.record.offset
        )
        self._offsets = [found.record.offset for found in self._placements]

    def build(self) -> Course:
        """The course."""
        decisions = self._recorded.decisions.get(self._service, [])
        start, since_ms = self._start(decisions)
        later = [found for found in decisions if found.message.at_ms > since_ms]
        cues: list[Cue] = []
        placed = start.inputs.get(self._placements_at, 0)
        spec_cut = start.inputs.get(self._specs_at, 0)
        for found in later:
            inputs = found.message.inputs
            window = self._windows.get(inputs.get(self._signals_at, 0) - 1)
            if window is None:
                place = f"{self._signals_at}@{inputs.get(self._signals_at, 0) - 1}"
                gap = Gap(place, f"the window of decision {found.message.id} ({instant_text(found.message.at_ms)})")
                return Course(self._service, start, tuple(cues), gap)
            upto = max(placed, inputs.get(self._placements_at, placed))
            fresh = self._placements[bisect_left(self._offsets, placed) : bisect_left(self._offsets, upto)]
            if upto > placed and (not fresh or fresh[-1].record.offset != upto - 1):
                gap = Gap(f"{self._placements_at}@{upto - 1}", f"a placement that decision {found.message.id} had read")
                return Course(self._service, start, tuple(cues), gap)
            cut = inputs.get(self._specs_at, spec_cut)
            changes = self._specs_between(spec_cut, cut)
            cues.extend([Cue(found, window, tuple(fresh), changes)])
            placed, spec_cut = upto, cut
        return Course(self._service, start, tuple(cues), self._start_gap(later, since_ms))

    def _start_gap(self, later: list[Found[Decision]], since_ms: int) -> Gap | None:
        """Without a state to start from, the first decision must be the service's first of all."""
        if not later or since_ms >= 0:
            return None
        first = later[0]
        if any(stage.reason == "cold_start" for stage in first.message.stages) or first.message.reason == "cold_start":
            return None
        place = self._recorded.bundle.at(Topic.DECISION_STATE, partitioning.partition_of(self._service.encode(), 12))
        return Gap(place, f"the state that {first.message.id} started from")

    def _start(self, decisions: list[Found[Decision]]) -> tuple[ServiceState, int]:
        """The newest state at or before the window's start, with its spec; else nothing."""
        span = self._recorded.bundle.manifest.window
        held = {found.message.at_ms for found in decisions}
        states = [
            found.message
            for found in self._recorded.states.get(self._service, ())
            if found.message.decision is not None and found.message.decision.at_ms <= span.from_ms
        ]
        if not states:
            return ServiceState(self._service), -1
        newest = max(states, key=lambda state: state.law.window_end_ms)
        del held
        known = [
            spec
            for record, spec in self._recorded.specs.get(self._service, ())
            if record.offset < newest.inputs.get(self._specs_at, 0) and spec is not None
        ]
        return controller.from_record(newest, known[-1] if known else None), newest.law.window_end_ms

    def _specs_between(self, since: int, until: int) -> tuple[Record, ServiceSpec | None] | None:
        """The last revision below the cut that was not below the one before. A tombstone in between is told first by being last."""
        fresh = [change for change in self._recorded.specs.get(self._service, ()) if since <= change[0].offset < until]
        return fresh[-1] if fresh else None


def events(one: Course) -> Iterator[tuple[str, Record]]:
    """The course as plain records, each with its kind, for a controller that is not ours."""
    for cue in one.cues:
        if cue.spec is not None:
            yield "spec", cue.spec[0]
        for placement in cue.placements:
            yield "placement", placement.record
        yield "window", cue.window.record
