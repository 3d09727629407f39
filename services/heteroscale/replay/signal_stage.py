"""telemetry.v1 → signals.v1, again: every partition through a fresh aggregator, its windows held against the recorded ones.

Telemetry is read as a stream. A spec's revision reaches the aggregator where it reached the recorded run: after the last window
that was closed without it. Windows that end at or before the bundle's window warm the aggregator up and are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from heteroscale.bus import partitioning
from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import CATALOGUE, Topic
from heteroscale.contracts.units import instant_text
from heteroscale.replay import differ
from heteroscale.replay.recorded import Found, Recorded
from heteroscale.replay.verdict import Divergence, Gap, Outcome, StageName, StageResult
from heteroscale.signals.aggregator import PartitionAggregator

PARTITIONS: Final = CATALOGUE[Topic.TELEMETRY].partitions
Edit = Callable[[Record], Record | None]
Key = tuple[ServiceName, int]


@dataclass(slots=True)
class _Lesson:
    """A spec's revision, and the end of the last window that was closed without it."""

    service: ServiceName
    spec: ServiceSpec | None
    at_ms: int
    after_end_ms: int


@dataclass(slots=True)
class _Lane:
    """One partition."""

    aggregator: PartitionAggregator
    lessons: list[_Lesson]
    taught: list[_Lesson] = field(default_factory=list)
    handled: int = 0
    since: list[Record] = field(default_factory=list)


def windows(recorded: Recorded, *, edit: Edit | None = None, restart_every: int | None = None) -> Iterable[SignalWindow]:
    """Windows from the recorded telemetry, as its ticks close them; `edit` may change or drop records."""
    lanes: dict[int, _Lane] = {}
    for record in recorded.bundle.records(Topic.TELEMETRY):
        given = record if edit is None else edit(record)
        if given is None or given.value is None:
            continue
        lane = lanes.get(record.partition)
        if lane is None:
            lane = lanes[record.partition] = _Lane(PartitionAggregator(record.partition), _lessons(recorded, record.partition))
            _teach(lane, {})
        outcome = lane.aggregator.handle(given.offset, given.value)
        if outcome.windows:
            yield from outcome.windows
            _teach(lane, lane.aggregator.newest)
        if restart_every is not None:
            _restart(lane, given, restart_every)


def verify(recorded: Recorded, *, restart_every: int | None = None) -> StageResult:
    """Hold every recorded window of the bundle's span against what the telemetry gives."""
    result = StageResult(StageName.SIGNALS)
    span = recorded.bundle.manifest.window
    expected: dict[Key, Found[SignalWindow]] = {
        (service, found.message.end_ms): found
        for service, windows_of in recorded.windows.items()
        for found in windows_of
        if span.from_ms < found.message.end_ms <= span.to_ms
    }
    _look_for_gaps(recorded, expected, result)
    last = {service: max(end for name, end in expected if name == service) for service, _ in expected}
    number, tally = 0, _Tally()
    for window in windows(recorded, edit=tally, restart_every=restart_every):
        key = (window.service, window.end_ms)
        found = expected.pop(key, None)
        if found is not None:
            number += 1
            _compare(result, number, found, window)
        elif span.from_ms < window.end_ms <= last.get(window.service, -1):
            number += 1
            what = f"{window.service} has a window that ends {instant_text(window.end_ms)} now, and had none"
            result.differs(Divergence(number, recorded.bundle.name(Topic.SIGNALS), what, Outcome.DIVERGED, (), (), *key))
    for (service, end_ms), found in sorted(expected.items()):
        _never_came(recorded, result, found, service, end_ms)
    result.samples = tally.samples
    return result


class _Tally:
    """Counts samples, by their instance fields, as records go by."""

    def __init__(self) -> None:
        self.samples = 0

    def __call__(self, record: Record) -> Record:
        """The record as it is."""
        if record.key is not None and record.value is not None:
            self.samples += record.value.count(b'"instance":')
        return record


def _compare(result: StageResult, number: int, found: Found[SignalWindow], window: SignalWindow) -> None:
    if codec.encode(window) == found.record.value or window == found.message:
        result.same()
        return
    what = f"{window.service}, window that ends {instant_text(window.end_ms)}"
    differences = differ.of_messages(found.message, window)
    result.differs(Divergence(number, found.place, what, Outcome.DIVERGED, differences, (), window.service, window.end_ms))


def _never_came(recorded: Recorded, result: StageResult, found: Found[SignalWindow], service: ServiceName, end_ms: int) -> None:
    """A recorded window that the telemetry does not give: the tick that closed it is missing, or it is a divergence."""
    inputs = found.message.inputs
    if inputs is not None:
        part = recorded.bundle.parts(Topic.TELEMETRY).get(inputs.partition)
        if part is None or inputs.last_offset >= part.next_offset:
            place = f"{recorded.bundle.at(Topic.TELEMETRY, inputs.partition)}@{inputs.last_offset}"
            result.gaps.append(Gap(place, f"the tick that closed {service} {instant_text(end_ms)}"))
            return
    what = f"{service}, window that ends {instant_text(end_ms)}, did not come"
    result.differs(Divergence(result.compared + 1, found.place, what, Outcome.DIVERGED, (), (), service, end_ms))


def _look_for_gaps(recorded: Recorded, expected: Mapping[Key, Found[SignalWindow]], result: StageResult) -> None:
    """Telemetry that the log had lost when the bundle was made, and records that a window read and the bundle lacks."""
    parts = recorded.bundle.parts(Topic.TELEMETRY)
    for partition, part in sorted(parts.items()):
        if part.missing is not None:
            span = part.missing
            what = f"telemetry from {instant_text(span.from_ms)} to {instant_text(span.to_ms)} had been deleted"
            result.gaps.append(Gap(f"{recorded.bundle.at(Topic.TELEMETRY, partition)}", what, span.from_ms, span.to_ms))
    for (service, end_ms), found in sorted(expected.items(), key=lambda item: (item[0][1], item[0][0])):
        inputs = found.message.inputs
        held = None if inputs is None else parts.get(inputs.partition)
        if inputs is None or held is None or inputs.first_offset is None or inputs.first_offset >= held.from_offset:
            continue
        place = f"{recorded.bundle.at(Topic.TELEMETRY, inputs.partition)}@{inputs.first_offset}"
        result.gaps.append(Gap(place, f"{service} {instant_text(end_ms)} was made from it; the bundle begins at {held.from_offset}"))
        return


def _lessons(recorded: Recorded, partition: int) -> list[_Lesson]:
    """Revisions of the partition's services, in the order they were written."""
    found: list[_Lesson] = []
    for service, revisions in sorted(recorded.specs.items()):
        if partitioning.partition_of(service.encode(), PARTITIONS) != partition:
            continue
        for at, (record, spec) in enumerate(revisions):
            found.append(_Lesson(service, spec, record.timestamp_ms, -1 if at == 0 else _last_without(recorded, service, spec)))
    return found


def _last_without(recorded: Recorded, service: ServiceName, spec: ServiceSpec | None) -> int:
    """The end of the last recorded window that was closed before a revision was known."""
    if spec is None or spec.revision is None:
        return -1
    older = [
        one.message.end_ms
        for one in recorded.windows.get(service, ())
        if one.message.spec_revision is not None and one.message.spec_revision < spec.revision
    ]
    return max(older, default=-1)


def _teach(lane: _Lane, newest: Mapping[ServiceName, int]) -> None:
    """Tell the aggregator the revisions whose time has come."""
    waiting: list[_Lesson] = []
    for lesson in lane.lessons:
        if lesson.after_end_ms <= newest.get(lesson.service, -1):
            lane.aggregator.learn(lesson.service, lesson.spec, lesson.at_ms)
            lane.taught.append(lesson)
        else:
            waiting.append(lesson)
    lane.lessons = waiting


def _restart(lane: _Lane, record: Record, every: int) -> None:
    """Forget the aggregator at every n-th record, and go on as a new owner would: from the offset that was safe to commit."""
    lane.since.append(record)
    safe = lane.aggregator.safe_offset()
    if safe is not None:
        lane.since = [one for one in lane.since if one.offset >= safe]
    lane.handled += 1
    if lane.handled % every:
        return
    lane.aggregator = PartitionAggregator(lane.aggregator.partition, lane.aggregator.newest)
    for lesson in lane.taught:
        lane.aggregator.learn(lesson.service, lesson.spec, lesson.at_ms)
    for again in lane.since:
        lane.aggregator.handle(again.offset, again.value or b"")
