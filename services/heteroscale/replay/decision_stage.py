"""(signals.v1, placements.v1, specs.v1) → decisions.v1, again: each decision's own cut says which records it had read.

A service starts from the last recorded state before the bundle's window, or from nothing where its first decision is in the
bundle. Between two decisions exactly the placements below the cut are folded, in offset order; the spec is the one below the
cut; the window is the record that the cut ends with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from heteroscale.bus import partitioning
from heteroscale.bus.log import Record
from heteroscale.contracts import codec
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
from heteroscale.replay.recorded import Found, Recorded
from heteroscale.replay.verdict import Divergence, Gap, Outcome, StageResult

KNOWN_POLICIES: Final = frozenset({POLICY_VERSION})


@dataclass(frozen=True, slots=True)
class Cue:
    """All that one recorded decision was made from, in order. `spec` null: the one in force stays."""

    recorded: Found[Decision]
    window: Found[SignalWindow]
    placements: tuple[Found[Placement], ...]
    spec: tuple[Record, ServiceSpec | None] | None


def course(recorded: Recorded, service: ServiceName) -> Course:
    """What to feed for one service."""
    return Course(recorded, service)


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


def verify(recorded: Recorded, result: StageResult, *, restart_every: int | None = None) -> StageResult:
    """Every decision after its service's start, and the commands that went with it, byte for byte."""
    for service in sorted(recorded.bundle.manifest.services):
        one = course(recorded, service)
        state = one.start
        for number, cue in enumerate(one.cues(), start=1):
            if cue.recorded.message.policy_version not in KNOWN_POLICIES:
                version = cue.recorded.message.policy_version
                result.unreplayable.append(f"{cue.recorded.place} was decided under policy {version}; this build knows {POLICY_VERSION}")
                break
            state, effects = apply(state, cue)
            _compare(result, cue, effects, recorded)
            if restart_every is not None and number % restart_every == 0:
                kept = codec.decode(DecisionState, codec.encode(state.record()))
                state = controller.from_record(kept, state.spec)
        if one.gap is not None:
            result.gaps.append(one.gap)
    return result


def _compare(result: StageResult, cue: Cue, effects: Effects, recorded: Recorded) -> None:
    found, decided = cue.recorded, effects.decision
    number = result.compared + 1
    what = f"{found.message.service} {instant_text(found.message.at_ms)}, {found.message.id}"
    service, at_ms = found.message.service, found.message.at_ms
    if decided is None:
        differences = [differ.Difference("decision", found.message.id, differ.ABSENT)]
        result.differs(Divergence(number, found.place, what, Outcome.DIVERGED, differences, (), service, at_ms))
        return
    same = codec.encode(decided) == found.record.value or decided == found.message
    sent = None if effects.command is None else recorded.command_like(effects.command)
    if same and (sent is None or sent.message == effects.command):
        result.same()
        return
    if same and sent is not None and effects.command is not None:
        output = differ.of_messages(sent.message, effects.command)
        result.differs(Divergence(number, sent.place, f"command of {what}", Outcome.DIVERGED, output, (), service, at_ms))
        return
    outcome = Outcome.OTHER_REASON if _same_action(found.message, decided) else Outcome.DIVERGED
    output = differ.of_messages(found.message, decided)
    state = recorded.state_of(service, cue.window.message.end_ms)
    below = () if state is None or effects.state is None else differ.of_messages(state.message.law, effects.state.law)
    result.differs(Divergence(number, found.place, what, outcome, output, tuple(below), service, at_ms))


def _same_action(one: Decision, other: Decision) -> bool:
    return (one.action, one.after) == (other.action, other.after)


class Course:
    """A service's decisions in the bundle: the state to start from, and a cue each, in the order the decisions had their records.

    `gap` says where input ended too early, once the cues have been gone through.
    """

    def __init__(self, recorded: Recorded, service: ServiceName) -> None:
        self.service = service
        self.gap: Gap | None = None
        self._recorded = recorded
        bundle = recorded.bundle
        partition = partitioning.partition_of(service.encode(), CATALOGUE[Topic.SIGNALS].partitions)
        self._signals_at = bundle.at(Topic.SIGNALS, partition)
        self._placements_at = bundle.at(Topic.PLACEMENTS, partition)
        self._specs_at = bundle.at(Topic.SPECS, 0)
        self._state_at = bundle.at(Topic.DECISION_STATE, partition)
        self.start, self._since_ms = self._begin()

    @property
    def placements_next(self) -> int:
        """The offset that the start had read placements up to."""
        return self.start.inputs.get(self._placements_at, 0)

    def cues(self) -> Iterator[Cue]:
        """One a decision; a decision whose input is not in the bundle ends the course."""
        placed = self.placements_next
        spec_cut = self.start.inputs.get(self._specs_at, 0)
        lacks_state: Gap | None = None
        for number, found in enumerate(self._recorded.decisions_after(self.service, self._since_ms)):
            if number == 0:
                lacks_state = self._start_gap(found)
            decision, inputs = found.message, found.message.inputs
            window = self._recorded.window_at(self.service, inputs.get(self._signals_at, 0) - 1)
            if window is None:
                place = f"{self._signals_at}@{inputs.get(self._signals_at, 0) - 1}"
                self.gap = Gap(place, f"the window of decision {decision.id} ({instant_text(decision.at_ms)})")
                return
            upto = max(placed, inputs.get(self._placements_at, placed))
            fresh = tuple(self._recorded.placements_of(self.service, placed, upto)) if upto > placed else ()
            if upto > placed and (not fresh or fresh[-1].record.offset != upto - 1):
                self.gap = Gap(f"{self._placements_at}@{upto - 1}", f"a placement that decision {decision.id} had read")
                return
            cut = inputs.get(self._specs_at, spec_cut)
            yield Cue(found, window, fresh, self._specs_between(spec_cut, cut))
            placed, spec_cut = upto, cut
        self.gap = lacks_state

    def _start_gap(self, first: Found[Decision]) -> Gap | None:
        """Without a state to start from, the first decision must be the service's first of all."""
        if self._since_ms >= 0 or first.message.reason == "cold_start" or any(one.reason == "cold_start" for one in first.message.stages):
            return None
        return Gap(self._state_at, f"the state that {first.message.id} started from")

    def _begin(self) -> tuple[ServiceState, int]:
        """The newest state at or before the window's start, with its spec; else nothing."""
        found = self._recorded.state_until(self.service, self._recorded.bundle.manifest.window.from_ms)
        if found is None:
            return ServiceState(self.service), -1
        newest = found.message
        known = [
            spec
            for record, spec in self._recorded.specs.get(self.service, ())
            if record.offset < newest.inputs.get(self._specs_at, 0) and spec is not None
        ]
        return controller.from_record(newest, known[-1] if known else None), newest.law.window_end_ms

    def _specs_between(self, since: int, until: int) -> tuple[Record, ServiceSpec | None] | None:
        """The last revision below the cut that was not below the one before. A tombstone in between is told first by being last."""
        fresh = [change for change in self._recorded.specs.get(self.service, ()) if since <= change[0].offset < until]
        return fresh[-1] if fresh else None
