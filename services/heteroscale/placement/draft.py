"""A service while a cycle works on it: what is known, what happened since, what is to change. Lives for one cycle.

Mutable on purpose and never shared: `fold` opens drafts, folds records and the plan into them, and closes each into a gang.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec

from heteroscale.contracts.commands import Command
from heteroscale.contracts.names import InstanceName, NodeName, RoleName, ServiceName
from heteroscale.contracts.placements import Conflict, Explain, Group, InstanceState
from heteroscale.placement import gate
from heteroscale.placement.inventory.entries import Cause, GroupEntry, InstanceEntry, ServiceEntry
from heteroscale.placement.inventory.gang import Transition
from heteroscale.placement.life import COUNTED, Step, Why
from heteroscale.placement.planning.model import Planned
from heteroscale.placement.state import ServiceState, as_groups


@dataclass(slots=True)
class Draft:
    """`answers`: a command was folded, so a Placement is due even if nothing changes."""

    service: ServiceName
    seq: int
    command: Command
    first_at_ms: int
    instances: dict[InstanceName, InstanceEntry] = field(default_factory=dict)
    groups: dict[str, GroupEntry] = field(default_factory=dict)
    withdrawn: Counter[RoleName] = field(default_factory=Counter)
    shortfall: dict[RoleName, int] = field(default_factory=dict)
    before: dict[InstanceName, InstanceEntry] = field(default_factory=dict)
    transitions: list[Transition] = field(default_factory=list)
    takes: Counter[NodeName] = field(default_factory=Counter)
    adopts: Counter[NodeName] = field(default_factory=Counter)
    frees: Counter[NodeName] = field(default_factory=Counter)
    conflicts: list[Conflict] = field(default_factory=list)
    explain: Explain | None = None
    answers: bool = False
    touched: bool = False

    @classmethod
    def of(cls, service: ServiceName, known: ServiceState) -> Draft:
        """A draft of what is known."""
        entry = known.entry
        return cls(
            service=service,
            seq=entry.seq,
            command=entry.command,
            first_at_ms=entry.first_at_ms,
            instances=dict(known.instances),
            groups=dict(entry.groups),
            withdrawn=Counter(entry.withdrawn),
            shortfall=dict(entry.shortfall),
            before=dict(known.instances),
        )

    def obey(self, command: Command) -> None:
        """Take a newer command. A new revision states new counts, so what people stopped under the old one is forgotten."""
        if command.revision != self.command.revision:
            self.first_at_ms = command.at_ms
            self.withdrawn.clear()
        self.command = command
        self.answers = True

    def take(self, step: Step, now_ms: int) -> None:
        """Carry out a move of the instance life."""
        self.touched = True
        self.frees.update(step.freed)
        if step.after is None:
            del self.instances[step.instance]
            if step.why is Why.STOPPED_UNASKED:
                self._withdraw(step.before, now_ms)
        else:
            self.instances[step.instance] = step.after
        state = step.after.state if step.after is not None else None
        if state is not step.before.state:
            self.transitions.append(Transition(instance=step.instance, before=step.before.state, after=state, reason=step.why.value))

    def _withdraw(self, gone: InstanceEntry, now_ms: int) -> None:
        """A person stopped it, so nothing is started in its place; parts that were one replica with it serve nobody and stop too."""
        self.withdrawn[gone.role] += 1
        for name, one in sorted(self.instances.items()):
            same = gone.part is not None and (one.group, one.role, one.replica) == (gone.group, gone.role, gone.replica)
            if same and one.state in COUNTED:
                self.instances[name] = msgspec.structs.replace(one, state=InstanceState.STOPPING, since_ms=now_ms, routable=False)
                self.transitions.append(
                    Transition(instance=name, before=one.state, after=InstanceState.STOPPING, reason=Why.STOPPED_UNASKED.value)
                )

    def adopt(self, name: InstanceName, entry: InstanceEntry, group: GroupEntry) -> None:
        """Bring in a running instance."""
        self.touched = True
        self.instances[name] = entry
        self.groups.setdefault(entry.group, group)
        self.adopts.update(entry.nodes)
        self.transitions.append(Transition(instance=name, before=None, after=entry.state, reason=Why.ADOPTED.value))

    def wanted(self) -> Command:
        """The command as it is to be planned: less what people stopped."""
        if not self.withdrawn:
            return self.command
        roles = {
            role: msgspec.structs.replace(target, replicas=max(0, target.replicas - self.withdrawn[role]))
            for role, target in self.command.roles.items()
        }
        return msgspec.structs.replace(self.command, roles=roles)

    def assignment(self) -> tuple[Group, ...]:
        """What is assigned now, for the planner."""
        return as_groups(self.entry(), self.instances)

    def follow(self, planned: Planned, now_ms: int) -> None:
        """Fold the plan in: births, moves, groups, what is missing and why."""
        debts = Counter((one.group, one.role) for one in self.instances.values() if one.state is InstanceState.FAILED)
        standing_in = self._overdue_without_replacement()
        for group in planned.assignment:
            kept = GroupEntry(domain=group.domain, pool=group.pool, degraded=group.degraded, degraded_reason=group.degraded_reason)
            self.touched |= self.groups.get(group.id) != kept
            self.groups[group.id] = kept
            for one in group.instances:
                known = self.instances.get(one.id)
                if known is not None and known.state is not one.state:
                    self.instances[one.id] = msgspec.structs.replace(known, state=one.state, since_ms=now_ms)
                elif known is None:
                    waiting = standing_in.get((one.role, one.part), [])
                    replaces = waiting.pop(0) if waiting else None
                    again = replaces is not None and self.instances[replaces].replacement
                    self.instances[one.id] = InstanceEntry(
                        service=self.service,
                        group=group.id,
                        role=one.role,
                        part=one.part,
                        replica=one.replica,
                        gpu_type=one.gpu_type,
                        nodes=one.nodes,
                        held=one.nodes,
                        state=one.state,
                        since_ms=now_ms,
                        reserved_ms=now_ms,
                        command=self.command.id,
                        replaces=replaces,
                        replacement=again or debts[group.id, one.role] > 0,
                    )
                    debts[group.id, one.role] -= 1
        self.takes.update(planned.taken)
        self.transitions += [
            Transition(instance=move.instance, before=move.before, after=move.after, reason=move.reason) for move in planned.transitions
        ]
        self.touched |= bool(planned.transitions) or dict(planned.shortfall) != self.shortfall
        self.shortfall = dict(sorted(planned.shortfall.items()))
        self.explain = planned.explain

    def settle(self) -> None:
        """Let go of what is over, and judge what may be routed to."""
        for name, one in sorted(self.instances.items()):
            over = one.state is InstanceState.FAILED and one.cause is None and not one.held
            if over and not self._owed(one):
                del self.instances[name]
        members: dict[str, dict[InstanceName, InstanceEntry]] = {}
        for name, one in self.instances.items():
            members.setdefault(one.group, {})[name] = one
        self.groups = {group: kept for group, kept in self.groups.items() if group in members}
        tolerance = self.command.ready_ratio.tolerance.fraction
        for group in members.values():
            shown = gate.routable(group, self.command.ratio or (), tolerance)
            for name, one in group.items():
                if one.routable != (name in shown):
                    self.instances[name] = msgspec.structs.replace(one, routable=name in shown)
                    self.touched = True

    def entry(self, seq: int | None = None) -> ServiceEntry:
        """The service's state as it would be stored."""
        return ServiceEntry(
            seq=self.seq if seq is None else seq,
            command=self.command,
            first_at_ms=self.first_at_ms,
            groups=dict(sorted(self.groups.items())),
            withdrawn={role: count for role, count in sorted(self.withdrawn.items()) if count},
            shortfall=self.shortfall,
        )

    def changed_instances(self) -> dict[InstanceName, InstanceEntry]:
        """Instances to write."""
        return {name: one for name, one in sorted(self.instances.items()) if self.before.get(name) != one}

    def _owed(self, one: InstanceEntry) -> bool:
        """Whether the group still waits for a replacement of this failed instance."""
        kept = self.groups.get(one.group)
        return kept is not None and kept.degraded_reason == "node_lost" and one.role in self.shortfall

    def _overdue_without_replacement(self) -> dict[tuple[RoleName, str | None], list[InstanceName]]:
        covered = {one.replaces for one in self.instances.values() if one.replaces is not None}
        waiting: dict[tuple[RoleName, str | None], list[InstanceName]] = {}
        for name, one in sorted(self.instances.items()):
            if one.cause is Cause.OVERDUE and one.state is InstanceState.STOPPING and name not in covered:
                waiting.setdefault((one.role, one.part), []).append(name)
        return waiting
