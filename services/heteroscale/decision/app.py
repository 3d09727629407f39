"""The decision service: SignalWindows and Placements in; states, decisions and commands out.

The only module here that touches Kafka. A worker holds the same partitions of signals.v1 and placements.v1, so all of a service.
It reads specs.v1 by itself, takes over states from decision-state.v1, publishes again what its predecessor published last, and
then, per batch: decode, step, write (states, decisions, commands), commit. Exactly one Decision a window: a state says which
windows it includes, and is durable before its decision is. After a backlog every window is decided, and only the newest commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from heteroscale.bus import dead_letters
from heteroscale.bus.log import Member, Record, TopicPartition
from heteroscale.contracts import codec, keys
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected, Stale
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.contracts.units import instant_text
from heteroscale.decision import controller, gauges, order
from heteroscale.decision.controller import ServiceState, Source, Tombstone
from heteroscale.decision.doubt import Arrived, Doubts
from heteroscale.decision.gauges import Gauges
from heteroscale.decision.memory import Memory
from heteroscale.decision.outbox import Outbox
from heteroscale.decision.settings import DecisionSettings
from heteroscale.decision.specs import parsing
from heteroscale.runtime import logs, metering, metrics
from heteroscale.runtime.clock import SYSTEM
from heteroscale.runtime.context import Context

STAGE: Final = "decision"
CONDITION: Final = "decision"
SPEC_WAIT_MS: Final = 200
ROUTE: Final = "/desired"


async def serve(context: Context, settings: DecisionSettings) -> None:
    """Decide until `context.stop`. Raises Retryable when the log is away, Broken when too many records make no sense."""
    worker = Worker(context)
    context.documents[ROUTE] = lambda query: gauges.desired(worker.memory.states, query)
    context.health.waiting(CONDITION, "partitions of the group")
    await worker.open()
    try:
        topics = [topic_name(context.prefix, topic) for topic in (Topic.SIGNALS, Topic.PLACEMENTS)]
        group = f"{context.prefix}.{settings.group}"  # loops under other prefixes are nobody we share work with
        member = await context.log.join(group, topics, on_assigned=worker.assigned, on_revoked=worker.revoked)
        try:
            while not context.stop.is_set():
                records = await member.poll(timeout_ms=settings.poll_ms)
                await worker.follow_specs()
                await worker.handle(records, member)
        finally:
            await member.close()
    finally:
        await worker.close()
        context.documents.pop(ROUTE, None)


class Worker:
    """One member of the group: its memory, its outbox, and what it does with a batch."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._guard = dead_letters.Guard(
            context.log,
            context.prefix,
            STAGE,
            limits=dead_letters.limits_of(context.bus),
            counter=metering.dead_letter_counter(context.metrics),
        )
        self.memory = Memory(context.log, context.prefix, self._guard)
        self._outbox = Outbox(context.log, context.prefix)
        self._doubts: Doubts[Record] = Doubts()
        self._gauges = Gauges(context.metrics)
        self._specs_at = TopicPartition(topic_name(context.prefix, Topic.SPECS), 0)
        self._specs = context.log.reader({})
        self._signals = topic_name(context.prefix, Topic.SIGNALS)
        self._caught_up: dict[int, int] = {}
        self._untold: list[tuple[ServiceState, Decision]] = []

    async def open(self) -> None:
        """Read specs to their end, before the first effect."""
        self._specs = self._context.log.reader(await self._context.log.begin_offsets([self._specs_at]))
        await self._read_specs_to_end()

    async def close(self) -> None:
        """Let go of the specs reader."""
        await self._specs.close()

    async def assigned(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, int] | None:
        """Take over: states, placements, then the last words of whoever held them. Where to go on."""
        await self.follow_specs()
        held = sorted(at.partition for at in partitions if at.topic == self._signals)
        self._outbox.clear()
        self._doubts.clear()
        positions = await self.memory.take_over(held)
        await self._outbox.repeat(self.memory.decided())
        ends = await self._context.log.end_offsets([TopicPartition(self._signals, partition) for partition in held])
        self._caught_up = {at.partition: end for at, end in ends.items()}
        self._context.health.holds(CONDITION)
        logs.logger().info("partitions_taken", partitions=held, services=len(self.memory.states))
        return positions

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Nothing is in flight between polls, so there is nothing to drain."""
        self._outbox.clear()
        self._doubts.clear()
        self.memory.drop()
        self._context.health.waiting(CONDITION, "partitions of the group")
        logs.logger().info("partitions_given_up", partitions=len(partitions))

    async def _read_specs_to_end(self) -> None:
        """To the end that specs.v1 has now."""
        end = (await self._context.log.end_offsets([self._specs_at]))[self._specs_at]
        while self._specs.positions().get(self._specs_at, 0) < end and not self._context.stop.is_set():
            await self.follow_specs(wait_ms=SPEC_WAIT_MS)

    async def follow_specs(self, *, wait_ms: int = 0) -> None:
        """Specs as they are applied; a tombstone lets its service go."""
        for record in await self._specs.poll(timeout_ms=wait_ms):
            service = keys.service_of(record.key)
            if record.value is None:
                await self._let_go(service, record)
                continue
            spec = await self._guard.use(record, _sound_spec)
            if spec is not None and spec.service != service:
                await self._guard.refuse(record, [Rejected("key", f"the key says {service}, the value {spec.service}")])
            elif spec is not None:
                self.memory.specs[spec.service] = (spec, Source(str(record.at), record.offset + 1))

    async def _let_go(self, service: str, record: Record) -> None:
        """No more decisions or commands, and no state."""
        self.memory.specs.pop(service, None)
        partition = self.memory.partition_of(service)
        state = self.memory.states.get(service)
        if partition not in self.memory.held or state is None:
            return
        self._gauges.forget(service, state)
        self.memory.states[service], _ = controller.step(state, Tombstone(service))
        self._outbox.forget(service)
        self._doubts.forget(service)
        await self._outbox.bury(service, partition=partition, at_ms=record.timestamp_ms)
        logs.logger().info("service_let_go", service=service)

    async def handle(self, records: list[Record], member: Member) -> None:
        """One batch, in order of time; then its commands, then the commit."""
        if not records:
            return
        began_s = SYSTEM.monotonic_s()
        for record in order.by_time(records):
            if record.topic == self._signals:
                await self._window(record)
            elif record.value is not None:
                await self._placement(record)
        await self._flush()
        await self._outbox.release(self._current(member.positions()))
        self._context.metrics.observe(metrics.DECIDE_SECONDS, SYSTEM.monotonic_s() - began_s)
        self._tell()
        touched = {record.at for record in records}
        try:
            await member.commit({at: offset for at, offset in member.positions().items() if at in touched})
        except Stale:
            logs.logger().info("commit_overtaken")  # the next owner starts from the states, which include all of it

    async def _window(self, record: Record) -> None:
        window = await self._guard.decode(record, SignalWindow)
        if window is None:
            return
        sifted = self._doubts.sift(Arrived(record, window), self.memory.decided_ms(window.service))
        if sifted.refuted is not None:
            end = instant_text(sifted.refuted.window.end_ms)
            why = f"ends at {end}, over an hour after the window before it, and the next one does not follow it; a clock was wrong"
            await self._guard.refuse(sifted.refuted.record, [Rejected("future", why)])
        for arrived in sifted.believed:
            await self._decide(arrived.record, arrived.window)

    async def _decide(self, record: Record, window: SignalWindow) -> None:
        """One window, into the outbox."""
        if window.service in self._outbox:
            await self._flush()
        await self._await_spec(window)
        if window.service in self.memory.specs and window.service not in self.memory.states:
            await self.memory.complete(window.service)
        state = self.memory.state_of(window.service)
        before_ms = state.law.window_end_ms
        state, effects = controller.step(state, window, Source(str(record.at), record.offset + 1))
        if state.spec is None and window.service not in self.memory.states:
            return
        self.memory.states[window.service] = state
        self._outbox.add(effects, partition=record.partition, before_ms=before_ms)

    async def _await_spec(self, window: SignalWindow) -> None:
        """A window built under a newer spec than is known here: the spec is on the log already, so reading to its end is enough."""
        known = self.memory.specs.get(window.service)
        if window.spec_revision is None or known is None or (known[0].revision or 0) >= window.spec_revision:
            return
        await self._read_specs_to_end()

    async def _placement(self, record: Record) -> None:
        placement = await self._guard.decode(record, Placement)
        if placement is not None:
            state = self.memory.state_of(placement.service)
            self.memory.states[placement.service], _ = controller.step(state, placement, Source(str(record.at), record.offset + 1))

    async def _flush(self) -> None:
        made = await self._outbox.flush()
        self._untold.extend((self.memory.states[decision.service], decision) for decision in made)

    def _tell(self) -> None:
        """Metrics and log lines of what was written: after the commands, which wait for nobody's reading."""
        for state, decision in self._untold:
            self._gauges.decided(state, decision)
            _log(decision)
        self._untold.clear()

    def _current(self, positions: Mapping[TopicPartition, int]) -> Iterable[str]:
        """Services whose partition has reached the end it had when it was taken over."""
        done = {
            partition for partition, end in self._caught_up.items() if positions.get(TopicPartition(self._signals, partition), end) >= end
        }
        return [service for service in self._outbox.waiting() if self.memory.partition_of(service) in done]


def _sound_spec(payload: bytes) -> ServiceSpec:
    """A spec that makes sense by itself: whoever wrote it, the law can work with it. Raises Rejected."""
    return parsing.checked(codec.decode(ServiceSpec, payload))


def _log(decision: Decision) -> None:
    """The one line a decision leaves in the log."""
    logs.logger().info(
        "decided",
        service=decision.service,
        decision=decision.id,
        at_ms=decision.at_ms,
        action=decision.action.value,
        reason=decision.reason.value,
        after=msgspec.to_builtins(decision.after),
    )
