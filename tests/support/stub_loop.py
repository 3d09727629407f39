"""A stand-in for the three services: every window gets a Decision with the counts given, and those are placed on the first nodes.

For tests of the world, the lockstep and the figures by themselves; it knows no law, no topology and no inventory.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from heteroscale.bus.log import Entry, Log, TopicPartition
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.decisions import Action, Decision, Reason, RoleAfter, WindowSpan
from heteroscale.contracts.names import DecisionId, decision_id
from heteroscale.contracts.placements import Change, Domain, Group, InstanceState, PlacedInstance, Placement, PlacementStatus, Pool
from heteroscale.contracts.spec import Mode, ServiceSpec
from heteroscale.contracts.telemetry import TelemetryRecord, Tick
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name

AFTER = {ActuationKind.STARTING: InstanceState.STARTING, ActuationKind.READY: InstanceState.READY}


@dataclass(slots=True)
class StubLoop:
    """Decides `counts` for each service, for ever. `opens_at_ms` is when the first window may start."""

    log: Log
    prefix: str
    specs: dict[str, ServiceSpec]
    counts: dict[str, dict[str, int]]
    opens_at_ms: int
    states: dict[str, dict[str, InstanceState]] = field(default_factory=dict)
    decided_ms: dict[str, int] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    seq: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        topics = [Topic.TELEMETRY, Topic.ACTUATIONS]
        places = [TopicPartition(topic_name(self.prefix, topic), p) for topic in topics for p in range(CATALOGUE[topic].partitions)]
        reader = self.log.reader(dict.fromkeys(places, 0))
        while True:
            records = await reader.poll(timeout_ms=1_000)
            acknowledged = [codec.decode(Actuation, r.value or b"") for r in records if r.topic.endswith(Topic.ACTUATIONS)]
            for said in acknowledged:
                self._fold(said)
            heard = [codec.decoder(TelemetryRecord).decode(record.value or b"") for record in records if record.key is None]
            latest = max((tick.at_ms for tick in heard if isinstance(tick, Tick)), default=None)
            entries = [entry for service in sorted(self.specs) for entry in self._answer(service, latest, bool(acknowledged))]
            if entries:
                await self.log.append(entries)
            await asyncio.sleep(0)

    def _fold(self, said: Actuation) -> None:
        states = self.states[said.service]
        if said.kind in AFTER:
            states[said.instance] = AFTER[said.kind]
        else:
            states.pop(said.instance, None)
            self.gone.add(said.instance)

    def _answer(self, service: str, tick_ms: int | None, changed: bool) -> list[Entry]:  # noqa: FBT001 - private
        spec, entries = self.specs[service], []
        at_ms = self.decided_ms.get(service)
        if tick_ms is not None:
            window = spec.window
            end = tick_ms - window.allowed_lateness.ms - window.interval.ms
            end -= end % window.hop.ms
            if end >= self.opens_at_ms + window.size.ms and end > self.decided_ms.get(service, 0):
                self.decided_ms[service] = at_ms = end
                entries.append(self._decision(spec, end))
                changed = True
        if changed and at_ms is not None:
            entries.append(self._placement(spec, at_ms))
        return entries

    def _decision(self, spec: ServiceSpec, end_ms: int) -> Entry:
        identity = decision_id(spec.service, end_ms, spec.revision, 1)
        decision = Decision(
            id=identity,
            service=spec.service,
            fleet=spec.fleet,
            at_ms=end_ms,
            window=WindowSpan(start_ms=end_ms - spec.window.size.ms, end_ms=end_ms),
            spec_revision=spec.revision,
            policy_version=1,
            mode=Mode.ACTIVE,
            before={},
            stages=[],
            action=Action.HOLD,
            reason=Reason.STEADY,
            after={role: RoleAfter(replicas=count) for role, count in self.counts[spec.service].items()},
            command_id=identity,
        )
        return Entry(topic_name(self.prefix, Topic.DECISIONS), spec.service.encode(), codec.encode(decision), end_ms)

    def _placement(self, spec: ServiceSpec, at_ms: int) -> Entry:
        states = self.states.setdefault(spec.service, {})
        wanted = [f"{spec.service}-{role}-{index}" for role, count in sorted(self.counts[spec.service].items()) for index in range(count)]
        wanted = [name for name in wanted if name not in self.gone]
        changes = [Change(instance=name, from_=None, to=InstanceState.RESERVED, reason="stub") for name in wanted if name not in states]
        for name in wanted:
            states.setdefault(name, InstanceState.RESERVED)
        self.seq += 1
        instances = [self._instance(spec, name, states[name], at_ms) for name in wanted if name in states]
        group = Group(id=f"{spec.service}-g", domain=Domain(cluster="core", s2="spine-1"), pool=Pool.LOW, instances=instances)
        placement = Placement(
            service=spec.service,
            fleet=spec.fleet,
            revision=1,
            command_id=DecisionId("0" * 16),
            seq=self.seq,
            gen=1,
            at_ms=at_ms,
            status=PlacementStatus.CONVERGED,
            groups=[group],
            changes=changes,
        )
        return Entry(topic_name(self.prefix, Topic.PLACEMENTS), spec.service.encode(), codec.encode(placement), at_ms)

    @staticmethod
    def _instance(spec: ServiceSpec, name: str, state: InstanceState, at_ms: int) -> PlacedInstance:
        role = name.split("-")[-2]
        return PlacedInstance(
            id=name,
            role=role,
            gpu_type=spec.roles[role].gpu_types[0].type,
            nodes={f"node-of-{name}": spec.roles[role].gpus or 0},
            state=state,
            since_ms=at_ms,
            routable=state is InstanceState.READY,
        )
