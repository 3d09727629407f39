"""telemetry.v1 → signals.v1, again: every partition through a fresh aggregator, its windows held against the recorded ones.

Telemetry is read as a stream. A spec's revision reaches the aggregator where it reached the recorded run: after the last window
that was closed without it. Windows that end at or before the bundle's window warm the aggregator up and are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
from heteroscale.replay.manifest import Part
from heteroscale.replay.recorded import Found, Recorded
from heteroscale.replay.verdict import TOLD_EVERY, Divergence, Gap, Outcome, StageResult
from heteroscale.signals.aggregator import PartitionAggregator

PARTITIONS: Final = CATALOGUE[Topic.TELEMETRY].partitions
Edit = Callable[[Record], Record | None]
Shape = Callable[[ServiceSpec], ServiceSpec]


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


def windows(
    recorded: Recorded, *, edit: Edit | None = None, shape: Shape = lambda spec: spec, restart_every: int | None = None
) -> Iterable[SignalWindow]:
    """Windows from the recorded telemetry, as its ticks close them; `edit` may change or drop records, `shape` the specs."""
    lanes: dict[int, _Lane] = {}
    for record in recorded.bundle.records(Topic.TELEMETRY):
        given = record if edit is None else edit(record)
        if given is None or given.value is None:
            continue
        lane = lanes.get(record.partition)
        if lane is None:
            lane = lanes[record.partition] = _Lane(PartitionAggregator(record.partition), _lessons(recorded, record.partition, shape))
            _teach(lane, {})
        outcome = lane.aggregator.handle(given.offset, given.value)
        if outcome.windows:
            yield from outcome.windows
            _teach(lane, lane.aggregator.newest)
        if restart_every is not None:
            _restart(lane, given, restart_every)


def verify(recorded: Recorded, result: StageResult, *, restart_every: int | None = None) -> StageResult:
    """Hold every recorded window of the bundle's span against what the telemetry gives."""
    span, tally = recorded.bundle.manifest.window, _Tally(result)
    asked = recorded.bundle.manifest.services
    expected = {name: _Expected(recorded, name, result) for name in sorted(recorded.windows) if name in asked}
    for gap in _gaps(recorded):
        result.gaps.append(gap)
    for window in windows(recorded, edit=tally, restart_every=restart_every):
        if window.service in expected and span.from_ms < window.end_ms <= span.to_ms:
            expected[window.service].hold(window)
    for _, rest in sorted(expected.items()):
        rest.drain()
    result.samples = tally.samples
    return result


class _Expected:
    """One service's recorded windows of the span, by their end, as the replayed ones come up to them."""

    def __init__(self, recorded: Recorded, service: ServiceName, result: StageResult) -> None:
        span = recorded.bundle.manifest.window
        self._recorded = recorded
        self._service = service
        self._result = result
        self._windows = iter(recorded.windows_between(service, span.from_ms, span.to_ms))
        self._next = next(self._windows, None)

    def hold(self, window: SignalWindow) -> None:
        """Hold one replayed window against the recorded one of its end; recorded ones before it never came."""
        while self._next is not None and self._next.message.end_ms < window.end_ms:
            self._never_came(self._next)
        if self._next is None:
            return  # the recording ends before the telemetry does
        if self._next.message.end_ms == window.end_ms:
            _compare(self._result, self._next, window)
            self._next = next(self._windows, None)
            return
        what = f"{window.service} has a window that ends {instant_text(window.end_ms)} now, and had none"
        place = self._recorded.bundle.name(Topic.SIGNALS)
        number = self._result.compared + 1
        self._result.differs(Divergence(number, place, what, Outcome.DIVERGED, (), (), window.service, window.end_ms))

    def drain(self) -> None:
        """The telemetry is over."""
        while self._next is not None:
            self._never_came(self._next)

    def _never_came(self, found: Found[SignalWindow]) -> None:
        """A recorded window that the telemetry does not give: the tick that closed it is missing, or it is a divergence."""
        self._next = next(self._windows, None)
        service, end_ms, inputs = self._service, found.message.end_ms, found.message.inputs
        if inputs is not None:
            part = self._recorded.bundle.parts(Topic.TELEMETRY).get(inputs.partition)
            if part is None or inputs.last_offset >= part.next_offset:
                place = f"{self._recorded.bundle.at(Topic.TELEMETRY, inputs.partition)}@{inputs.last_offset}"
                self._result.gaps.append(Gap(place, f"the tick that closed {service} {instant_text(end_ms)}"))
                return
        what = f"{service}, window that ends {instant_text(end_ms)}, did not come"
        self._result.differs(Divergence(self._result.compared + 1, found.place, what, Outcome.DIVERGED, (), (), service, end_ms))


class _Tally:
    """Counts samples, by their instance fields, as records go by."""

    def __init__(self, result: StageResult) -> None:
        self._result = result
        self._records = 0
        self.samples = 0

    def __call__(self, record: Record) -> Record:
        """The record as it is."""
        if record.key is not None and record.value is not None:
            self.samples += record.value.count(b'"instance":')
        self._records += 1
        if self._records % TOLD_EVERY == 0:
            self._result.tell(self._result.stage, self.samples)
        return record


def _compare(result: StageResult, found: Found[SignalWindow], window: SignalWindow) -> None:
    if codec.encode(window) == found.record.value or window == found.message:
        result.same()
        return
    what = f"{window.service}, window that ends {instant_text(window.end_ms)}"
    differences = differ.of_messages(found.message, window)
    number = result.compared + 1
    result.differs(Divergence(number, found.place, what, Outcome.DIVERGED, differences, (), window.service, window.end_ms))


def _gaps(recorded: Recorded) -> Iterator[Gap]:
    """Telemetry that the log had lost when the bundle was made, and the first window that was made from more than there is."""
    parts = recorded.bundle.parts(Topic.TELEMETRY)
    for partition, part in sorted(parts.items()):
        if part.missing is not None:
            span = part.missing
            what = f"telemetry from {instant_text(span.from_ms)} to {instant_text(span.to_ms)} had been deleted"
            yield Gap(f"{recorded.bundle.at(Topic.TELEMETRY, partition)}", what, span.from_ms, span.to_ms)
    asked = (service for service in sorted(recorded.windows) if service in recorded.bundle.manifest.services)
    begun = [one for service in asked if (one := _begun_before(recorded, service, parts)) is not None]
    if begun:
        found = min(begun, key=lambda one: (one.message.end_ms, one.message.service))
        inputs = found.message.inputs
        assert inputs is not None  # noqa: S101 - _begun_before looked
        place = f"{recorded.bundle.at(Topic.TELEMETRY, inputs.partition)}@{inputs.first_offset}"
        held = parts[inputs.partition].from_offset
        yield Gap(place, f"{found.message.service} {instant_text(found.message.end_ms)} was made from it; the bundle begins at {held}")


def _begun_before(recorded: Recorded, service: ServiceName, parts: Mapping[int, Part]) -> Found[SignalWindow] | None:
    """A service's first window of the span, if a record it was made from comes before those held."""
    span = recorded.bundle.manifest.window
    for found in recorded.windows_between(service, span.from_ms, span.to_ms):
        inputs = found.message.inputs
        held = None if inputs is None else parts.get(inputs.partition)
        if inputs is not None and held is not None and inputs.first_offset is not None:
            return found if inputs.first_offset < held.from_offset else None  # later windows begin later
    return None


def _lessons(recorded: Recorded, partition: int, shape: Shape) -> list[_Lesson]:
    """Revisions of the partition's services, in the order they were written."""
    found: list[_Lesson] = []
    for service, revisions in sorted(recorded.specs.items()):
        if partitioning.partition_of(service.encode(), PARTITIONS) != partition:
            continue
        for at, (record, spec) in enumerate(revisions):
            taught = None if spec is None else shape(spec)
            found.append(_Lesson(service, taught, record.timestamp_ms, -1 if at == 0 else _last_without(recorded, service, spec)))
    return found


def _last_without(recorded: Recorded, service: ServiceName, spec: ServiceSpec | None) -> int:
    """The end of the last recorded window that was closed before a revision was known."""
    return -1 if spec is None or spec.revision is None else recorded.last_window_before(service, spec.revision)


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
