"""Runs a baseline policy in the decision service's place: signals.v1 in, decisions.v1 and commands.v1 out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from heteroscale.bus.log import Entry, TopicPartition
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decisions import Action, Decision, Reason, RoleAfter, RoleBefore, Stage, StageName, WindowSpan
from heteroscale.contracts.names import DecisionId, decision_id
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import Mode, ReadyRatio, ServiceSpec
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.contracts.units import Percent
from heteroscale.decision import commands
from heteroscale.decision.commands import Stamp
from heteroscale.runtime.context import Context
from heteroscale.simulator.baselines.policy import Policy

POLICY_VERSION = 0  # not a version of our law
POLL_MS = 250
UNGATED = ReadyRatio(tolerance=Percent(1_000.0))  # holding back the excess of a pair is ours alone


@dataclass(slots=True)
class Standing:
    """What a service was last commanded."""

    counts: dict[str, int] = field(default_factory=dict)
    revision: int = 0
    command_id: DecisionId | None = None


@dataclass(slots=True)
class Baseline:
    """One policy a service."""

    specs: Mapping[str, ServiceSpec]
    policies: Mapping[str, Policy]
    standing: dict[str, Standing] = field(default_factory=dict)

    async def serve(self, context: Context) -> None:
        """Answer every window until asked to stop."""
        topic = topic_name(context.prefix, Topic.SIGNALS)
        reader = context.log.reader({TopicPartition(topic, index): 0 for index in range(CATALOGUE[Topic.SIGNALS].partitions)})
        try:
            while not context.stop.is_set():
                records = await reader.poll(timeout_ms=POLL_MS)
                entries = [entry for record in records if record.value for entry in self.answer(record.value, context.prefix)]
                if entries:
                    await context.log.append(entries)
        finally:
            await reader.close()

    def answer(self, value: bytes, prefix: str) -> list[Entry]:
        """What goes on the log for a window."""
        window = codec.decode(SignalWindow, value)
        spec = self.specs.get(window.service)
        if spec is None:
            return []
        decision, command = self.judge(spec, window)
        return [
            Entry(topic_name(prefix, Topic.DECISIONS), spec.service.encode(), codec.encode(decision), window.end_ms),
            Entry(topic_name(prefix, Topic.COMMANDS), spec.fleet.encode(), codec.encode(command), window.end_ms),
        ]

    def judge(self, spec: ServiceSpec, window: SignalWindow) -> tuple[Decision, Command]:
        """The Decision for a window, and the Command that affirms or changes the counts."""
        state = self.standing.setdefault(window.service, Standing())
        wanted = self.policies[window.service].decide(window)
        identity = decision_id(window.service, window.end_ms, window.spec_revision, POLICY_VERSION)
        before, total = state.counts, sum(wanted.values()) - sum(state.counts.values())
        if wanted != before:
            state.revision, state.command_id, state.counts = state.revision + 1, identity, wanted
        decision = _decision(window, spec, before, wanted, identity, state.command_id, total)
        stamp = Stamp(state.command_id or identity, state.revision, window.end_ms, identity)
        command = commands.build(spec, {role: RoleAfter(replicas=count) for role, count in wanted.items()}, stamp)
        command = msgspec.structs.replace(command, ready_ratio=UNGATED)
        return decision, command

    def decider(self, spec: ServiceSpec) -> BaselineDecider:
        """One service's policy, as a direct run asks it."""
        return BaselineDecider(self, spec)


@dataclass(frozen=True, slots=True)
class BaselineDecider:
    """See direct.Decider."""

    baseline: Baseline
    spec: ServiceSpec

    def window(self, window: SignalWindow) -> tuple[Decision, Command]:
        """Decide a window."""
        return self.baseline.judge(self.spec, window)

    def placed(self, placement: Placement) -> None:
        """Baselines do not look at placements."""


def _decision(  # noqa: PLR0913, PLR0917 - the parts of one record
    window: SignalWindow,
    spec: ServiceSpec,
    before: Mapping[str, int],
    wanted: Mapping[str, int],
    identity: DecisionId,
    command_id: DecisionId | None,
    total: int,
) -> Decision:
    action = Action.HOLD if wanted == before else Action.SCALE_OUT if total >= 0 else Action.SCALE_IN
    serving = {role: signal.instances.serving for role, signal in window.roles.items()}
    return Decision(
        id=identity,
        service=window.service,
        fleet=spec.fleet,
        at_ms=window.end_ms,
        window=WindowSpan(start_ms=window.start_ms, end_ms=window.end_ms),
        spec_revision=window.spec_revision,
        policy_version=POLICY_VERSION,
        mode=Mode.ACTIVE,
        before={role: RoleBefore(replicas=before.get(role, 0), serving=serving.get(role, 0)) for role in sorted(spec.roles)},
        stages=[Stage(stage=StageName.RAW, value=dict(sorted(wanted.items())))],
        action=action,
        reason=Reason.STEADY if action is Action.HOLD else Reason.DEMAND,
        after={role: RoleAfter(replicas=count) for role, count in sorted(wanted.items())},
        command_id=command_id,
    )
