"""One partition of telemetry.v1 becomes windows: the pure core that worker, Faust app, simulator, replay and offline tool share.

A function of its records alone: `handle` takes them in offset order and returns what they bring about. No clock, no I/O.
What the shell owes it: specs through `learn` (those of services whose key falls into this partition) before the first record,
and the end of each service's newest window on signals.v1 (`newest`), below which nothing is emitted again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.signals import SignalWindow, WindowInputs
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import Tick
from heteroscale.signals import closing, wire
from heteroscale.signals.intake import Arrival
from heteroscale.signals.table import AHEAD_OF_TIME, RefusedSample, ServiceTable
from heteroscale.signals.ticks import TickClock
from heteroscale.signals.timeline import Timeline, parameters
from heteroscale.signals.wire import BadSample, Batch, WireSample, sample_bytes

AHEAD_MS_MAX: Final = 3_600_000
GAP_MS_MAX: Final = 7 * 86_400_000  # no window is made for a longer gap between ticks: telemetry.v1 keeps no more
SET_ASIDE_MAX: Final = 200_000  # samples kept undigested before they are entered without waiting for a window
_LONG_AGO: Final = float("-inf")


class Refused(NamedTuple):
    """A record, or one sample of it, that goes to dead letters."""

    offset: int
    code: str
    message: str
    payload: bytes


class Outcome(NamedTuple):
    """What one record brought about."""

    windows: list[SignalWindow]
    refused: list[Refused]


NOTHING: Final = Outcome([], [])


class _Service:
    """One service of the partition: its spec's history, its instances, and which window comes next."""

    __slots__ = ("due_ms", "emitted_ms", "lateness_ms", "name", "next_end_ms", "origin_ms", "spec_seen", "table", "timeline")

    def __init__(self, name: ServiceName) -> None:
        self.name = name
        self.timeline = Timeline()
        self.table: ServiceTable | None = None
        self.origin_ms: int | None = None
        self.spec_seen = False  # whether a tick at or after the spec's beginning has been heard
        self.emitted_ms: int | None = None
        self.next_end_ms: int | None = None
        self.due_ms = 0
        self.lateness_ms = 0  # of the next window

    def begin_anew(self) -> None:
        """As if nothing had been heard of it; its specs stay known."""
        self.table = None
        self.origin_ms = self.emitted_ms = self.next_end_ms = None
        self.spec_seen = False

    def begin(self, at_ms: int) -> None:
        """The service exists from `at_ms` on, or earlier."""
        if self.emitted_ms is None and (self.origin_ms is None or at_ms < self.origin_ms):
            self.origin_ms = at_ms
            self.plan()

    def go_on_after(self, end_ms: int) -> None:
        """The window that ended at `end_ms` is published."""
        self.emitted_ms = end_ms
        self.plan()

    def plan(self) -> None:
        """Work out the next window and the tick that will close it."""
        if self.emitted_ms is not None:
            self.next_end_ms = self.timeline.next_end(self.emitted_ms)
        elif self.origin_ms is not None:
            self.next_end_ms = self.timeline.first_end(self.origin_ms)
        else:
            return
        rules = self.timeline.at(self.next_end_ms)
        self.lateness_ms = rules.lateness_ms
        self.due_ms = self.next_end_ms + rules.interval_ms + rules.lateness_ms

    def watermark_ms(self, tick_ms: int | None) -> float:
        """The newest tick less the allowed lateness."""
        if tick_ms is None:
            return _LONG_AGO
        return tick_ms - (self.timeline.at(tick_ms).lateness_ms if self.next_end_ms is None else self.lateness_ms)


class PartitionAggregator:
    """All services of one partition. Feed it records in offset order."""

    def __init__(self, partition: int, newest: Mapping[ServiceName, int] | None = None) -> None:
        self.partition = partition
        self.late_samples = 0
        self._newest = dict(newest or {})
        self._clock = TickClock()
        self._limit_ms = float("inf")  # no sample is believed that is later
        self._sure_ms = _LONG_AGO  # the same, if the tick that may be true is not
        self._unsure: dict[ServiceName, int] = {}  # services with samples beyond it, and how far back their records go
        self._services: dict[ServiceName, _Service] = {}
        self._next_due_ms = 0  # no window closes before the tick reaches this
        self._trail = _Trail()
        self._next_offset: int | None = None

    @property
    def tick_ms(self) -> int | None:
        """The newest tick in force."""
        return self._clock.now_ms

    @property
    def next_offset(self) -> int | None:
        """The offset after the last record taken."""
        return self._next_offset

    @property
    def newest(self) -> dict[ServiceName, int]:
        """The end of each service's newest window."""
        return dict(self._newest)

    @property
    def instances(self) -> int:
        """How many instances are remembered."""
        return sum(each.table.instances for each in self._services.values() if each.table is not None)

    @property
    def bytes_held(self) -> int:
        """Memory of the columns, in bytes."""
        return sum(each.table.bytes_held for each in self._services.values() if each.table is not None)

    def learn(self, service: ServiceName, spec: ServiceSpec | None, at_ms: int) -> None:
        """A spec's revision, or its tombstone (null) with the instant it was written."""
        if spec is None and service not in self._services:
            return
        found = self._service(service)
        found.timeline.add(at_ms if spec is None or spec.applied_at_ms is None else spec.applied_at_ms, spec)
        found.plan()
        self._next_due_ms = 0

    def handle(self, offset: int, payload: bytes) -> Outcome:
        """Take the record at `offset`. Never raises on bad input: that is in `refused`."""
        self._next_offset = offset + 1
        try:
            record = wire.read(payload)
        except Rejected as error:
            return Outcome([], [Refused(offset, error.code, error.message, payload)])
        return self._tick(offset, record) if isinstance(record, Tick) else self._samples(offset, record, payload)

    def drain(self) -> list[Refused]:
        """Enter what is set aside, without closing anything: for the end of a file."""
        refused: list[Refused] = []
        for service in self._sorted():
            refused += self._enter(service)
        return refused

    def safe_offset(self) -> int | None:
        """The next offset that may be committed: a restart from it rebuilds every window that is not closed yet."""
        if self._clock.now_ms is None:
            return None
        horizon_ms = max((each.timeline.longest().horizon_ms for each in self._services.values()), default=parameters(None).horizon_ms)
        return self._trail.resume_at(self._clock.now_ms - horizon_ms, self._limit_ms)

    def _samples(self, offset: int, batch: Batch, payload: bytes) -> Outcome:
        refused = [Refused(offset, *bad) for bad in batch.bad] if batch.bad else []
        times = batch.column("at_ms")
        newest_ms = max(times, default=-1)
        if newest_ms > self._limit_ms:
            ahead = [position for position, at_ms in enumerate(times) if at_ms > self._limit_ms]
            refused += [_ahead(offset, batch.sample(position)) for position in ahead]
            batch = batch.without(ahead)
            times = batch.column("at_ms")
            newest_ms = max(times, default=-1)
        if newest_ms < 0:
            return Outcome([], refused) if refused else NOTHING
        service = self._services.get(batch.service) or self._service(batch.service)
        if service.table is None:
            service.table = ServiceTable()
        watermark_ms = service.watermark_ms(self._clock.now_ms)
        if service.emitted_ms is None:
            self._begin(service, min(times), watermark_ms)
        if newest_ms > self._sure_ms:
            self._unsure[service.name] = min(*times, self._unsure.get(service.name, newest_ms))
        self._trail.record(newest_ms, offset)
        if service.table.set_aside(batch, Arrival(offset, watermark_ms, payload)) > SET_ASIDE_MAX:
            refused += self._enter(service)
        return Outcome([], refused) if refused else NOTHING

    def _begin(self, service: _Service, oldest_ms: int, watermark_ms: float) -> None:
        """The first sample of a service begins it; an earlier one that is not late begins it earlier."""
        if service.origin_ms is None or (oldest_ms < service.origin_ms and oldest_ms >= watermark_ms):
            service.begin(oldest_ms)
            self._next_due_ms = min(self._next_due_ms, service.due_ms)

    def _tick(self, offset: int, tick: Tick) -> Outcome:
        before_ms = self._clock.now_ms
        if self._clock.advance(tick.at_ms):
            self._trail.tick(tick.at_ms, offset)
        now_ms, heard_ms = self._clock.now_ms, self._clock.heard_ms
        if now_ms is None or heard_ms is None:
            return NOTHING
        self._sure_ms, self._limit_ms = now_ms + AHEAD_MS_MAX, heard_ms + AHEAD_MS_MAX
        refused: list[Refused] = []
        unsure: dict[ServiceName, int] = {}
        if self._unsure and now_ms == heard_ms:
            unsure, self._unsure = self._unsure, {}
            refused = self._judge(unsure)
        if now_ms == before_ms:
            return Outcome([], refused) if refused else NOTHING
        if before_ms is not None and now_ms - before_ms > GAP_MS_MAX:
            self._begin_anew(unsure)
        return self._advance(now_ms, offset, refused)

    def _advance(self, now_ms: int, offset: int, refused: list[Refused]) -> Outcome:
        """Begin and close what the new time makes due."""
        for service in self._services.values():
            if not service.spec_seen:
                self._begin_by_spec(service, now_ms)
        if now_ms < self._next_due_ms:
            return Outcome([], refused) if refused else NOTHING
        windows: list[SignalWindow] = []
        for service in self._sorted():
            if service.next_end_ms is not None and now_ms >= service.due_ms:
                refused += self._enter(service)
                self._close(service, now_ms, offset, windows)
        due = [each.due_ms for each in self._services.values() if each.next_end_ms is not None]
        self._next_due_ms = min(due, default=0)
        return Outcome(windows, refused)

    def _judge(self, unsure: Mapping[ServiceName, int]) -> list[Refused]:
        """Samples that came while nobody could tell how late it was, now that a tick has told."""
        refused: list[Refused] = []
        for service in [self._services[name] for name in sorted(unsure) if name in self._services]:
            refused += self._enter(service)
            if service.origin_ms is not None and service.origin_ms > self._limit_ms:
                service.begin_anew()
        return refused

    def _begin_anew(self, unsure: Mapping[ServiceName, int]) -> None:
        """After a long gap: its windows nobody measured and nobody waits for. What came just before the tick that told of it stays."""
        for service in self._sorted():
            table, since_ms = service.table, unsure.get(service.name)
            if since_ms is None and service.timeline.applied_at_ms is None:
                del self._services[service.name]
                continue
            service.begin_anew()
            if since_ms is not None:
                service.table = table
                service.begin(since_ms)

    def _begin_by_spec(self, service: _Service, now_ms: int) -> None:
        applied_at_ms = service.timeline.applied_at_ms
        if applied_at_ms is not None and now_ms >= applied_at_ms:
            service.spec_seen = True
            newest_ms = self._newest.get(service.name, _LONG_AGO)
            if service.origin_ms is None and applied_at_ms <= newest_ms < now_ms <= newest_ms + GAP_MS_MAX:
                service.go_on_after(int(newest_ms))  # an earlier life's, when ticks leapt over more than is read again
            else:
                service.begin(now_ms)
            self._next_due_ms = min(self._next_due_ms, service.due_ms)

    def _close(self, service: _Service, now_ms: int, offset: int, windows: list[SignalWindow]) -> None:
        """Close every window of a service that is due."""
        while service.next_end_ms is not None and now_ms >= service.due_ms:
            end_ms = service.next_end_ms
            rules = service.timeline.at(end_ms)
            last_ms = _LONG_AGO if service.table is None else service.table.last_at_ms
            if not rules.has_spec and end_ms - last_ms > rules.forget_ms:
                self._end(service)
                return
            late = service.table.take_late() if service.table is not None else 0
            self.late_samples += late
            if end_ms > self._newest.get(service.name, -1):
                closed = closing.close(service.table, end_ms, rules)
                inputs = WindowInputs(partition=self.partition, first_offset=closed.first_offset, last_offset=offset)
                windows.append(
                    SignalWindow(
                        service=service.name,
                        start_ms=end_ms - rules.size_ms,
                        end_ms=end_ms,
                        spec_revision=rules.revision,
                        roles=closed.roles,
                        late_samples=late,
                        inputs=inputs,
                    )
                )
                self._newest[service.name] = end_ms
            service.emitted_ms = end_ms
            service.plan()

    def _end(self, service: _Service) -> None:
        """A service without a spec that nobody hears of: it begins anew with its next sample."""
        if service.timeline.applied_at_ms is None:
            del self._services[service.name]
        else:
            service.begin_anew()

    def _enter(self, service: _Service) -> list[Refused]:
        if service.table is None:
            return []
        rules = service.timeline.at(service.next_end_ms or 0)
        start_ms = _LONG_AGO if service.next_end_ms is None else service.next_end_ms - rules.size_ms
        return [_refused(found) for found in service.table.enter(start_ms, rules.forget_ms, self._limit_ms)]

    def _service(self, name: ServiceName) -> _Service:
        found = self._services.get(name)
        if found is None:
            found = self._services[name] = _Service(name)
        return found

    def _sorted(self) -> list[_Service]:
        return [self._services[name] for name in sorted(self._services)]


class _Trail:
    """Where a restart must begin to see again everything at or after an instant: the lowest offset per second of time."""

    def __init__(self) -> None:
        self._lowest: dict[int, int] = {}
        self._ticks: deque[int] = deque()

    def record(self, at_ms: int, offset: int) -> None:
        """A record whose newest sample is of `at_ms`."""
        self._lowest.setdefault(at_ms // 1_000, offset)

    def tick(self, at_ms: int, offset: int) -> None:
        """A tick in force. A restart begins at one, so that it judges what follows by the same time."""
        self.record(at_ms, offset)
        self._ticks.append(offset)

    def resume_at(self, horizon_ms: int, limit_ms: float) -> int | None:
        """The last tick in force at or before the lowest record of `horizon_ms` or later; that record if there is none.

        Nothing that is later than `limit_ms` was believed.
        """
        for second in [each for each in self._lowest if not horizon_ms // 1_000 <= each <= limit_ms // 1_000]:
            del self._lowest[second]
        if not self._lowest:
            return None
        lowest = min(self._lowest.values())
        before = bisect_right(self._ticks, lowest)
        for _ in range(before - 1):
            self._ticks.popleft()
        return self._ticks[0] if before else lowest


def _ahead(offset: int, sample: WireSample) -> Refused:
    return Refused(offset, *AHEAD_OF_TIME, sample_bytes(sample))


def _refused(found: RefusedSample) -> Refused:
    bad: BadSample = found.bad
    return Refused(found.offset, bad.code, bad.message, bad.payload)
