"""What decisions publish, in the order that loses nothing: states, then decisions, then commands."""

from __future__ import annotations

from collections.abc import Iterable

from heteroscale.bus.log import Entry, Log
from heteroscale.contracts import codec, keys
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.contracts.units import MS_PER_UNIT
from heteroscale.decision.controller import Effects


class Outbox:
    """Collects one round (at most one window a service) and writes it with three appends.

    A round holds one decision a service, because a state record remembers one: after a crash between the appends, the last
    state of every service still tells what had not been published.
    """

    def __init__(self, log: Log, prefix: str) -> None:
        self._log = log
        self._states = topic_name(prefix, Topic.DECISION_STATE)
        self._decisions = topic_name(prefix, Topic.DECISIONS)
        self._commands = topic_name(prefix, Topic.COMMANDS)
        self._round: dict[str, tuple[Effects, int, int]] = {}
        self._held: dict[str, dict[bool, Command]] = {}

    def __contains__(self, service: str) -> bool:
        """Whether the round has a decision of this service already."""
        return service in self._round

    def add(self, effects: Effects, *, partition: int, before_ms: int) -> None:
        """One decision. `before_ms` is the window end decided before it (negative: none)."""
        if effects.decision is None:
            return
        service = effects.decision.service
        self._round[service] = (effects, partition, before_ms)
        if effects.command is not None:
            self._held.setdefault(service, {})[effects.command.dry_run] = effects.command

    async def flush(self) -> list[Decision]:
        """Write the round's states and decisions; its commands are kept until `release`. The decisions, by service."""
        if not self._round:
            return []
        states: list[Entry] = []
        decisions: list[Entry] = []
        made: list[Decision] = []
        for service in sorted(self._round):
            effects, partition, before_ms = self._round[service]
            if effects.state is None or effects.decision is None:
                continue
            states.extend(self._state_entries(effects.state, effects.decision.at_ms, partition, before_ms))
            decisions.append(self._decision_entry(effects.decision))
            made.append(effects.decision)
        await self._log.append(states)
        await self._log.append(decisions)
        self._round.clear()
        return made

    async def release(self, services: Iterable[str]) -> list[Command]:
        """Write the newest command of each of `services` that has one waiting."""
        waiting = [held[dry] for service in sorted(services) for held in [self._held.pop(service, {})] for dry in sorted(held)]
        await self._log.append([self._command_entry(command) for command in waiting])
        return waiting

    def waiting(self) -> list[str]:
        """Services whose command waits."""
        return sorted(self._held)

    def forget(self, service: str) -> None:
        """Its commands are void."""
        self._held.pop(service, None)

    def clear(self) -> None:
        """The partitions went to somebody else."""
        self._round.clear()
        self._held.clear()

    async def repeat(self, states: Iterable[DecisionState]) -> None:
        """Publish each service's last decision and command again, as they were; readers keep the first of each."""
        known = [state for state in states if state.decision is not None]
        await self._log.append([self._decision_entry(state.decision) for state in known if state.decision is not None])
        commands = [command for state in known for command in (state.command, state.recommendation) if command is not None]
        await self._log.append([self._command_entry(command) for command in commands])

    async def bury(self, service: str, *, partition: int, at_ms: int) -> None:
        """The state of a service that was let go."""
        await self._log.append([Entry(self._states, service.encode(), None, at_ms, partition)])

    def _state_entries(self, state: DecisionState, at_ms: int, partition: int, before_ms: int) -> list[Entry]:
        payload = codec.encode(state)
        entries = [Entry(self._states, state.service.encode(), payload, at_ms, partition)]
        if before_ms < 0 or before_ms // MS_PER_UNIT["h"] != at_ms // MS_PER_UNIT["h"]:
            entries.append(Entry(self._states, keys.hourly_key(state.service, at_ms), payload, at_ms, partition))
        return entries

    def _decision_entry(self, decision: Decision) -> Entry:
        return Entry(self._decisions, decision.service.encode(), codec.encode(decision), decision.at_ms)

    def _command_entry(self, command: Command) -> Entry:
        return Entry(self._commands, command.fleet.encode(), codec.encode(command), command.at_ms)
