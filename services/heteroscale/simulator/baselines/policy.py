"""What a baseline is: a rule from one service's window to replicas per role. It replaces the decision service alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.spec import ServiceSpec


class Policy(Protocol):
    """Decides the counts of one service, window by window."""

    def decide(self, window: SignalWindow) -> dict[str, int]:
        """Replicas per role from now on."""
        ...


class RoleRule(Protocol):
    """Scales one role by itself."""

    def recommend(self, now_ms: int, current: int, signal: RoleSignal) -> int:
        """Replicas that the role should have, before its bounds."""
        ...


@dataclass(slots=True)
class Apart:
    """Each role by itself, inside its bounds: how autoscalers that know nothing of pairs are run."""

    spec: ServiceSpec
    rules: Mapping[str, RoleRule]
    counts: dict[str, int] = field(default_factory=dict)

    def decide(self, window: SignalWindow) -> dict[str, int]:
        """See Policy. A role without a signal stays as it is."""
        for role, bounds in sorted(self.spec.roles.items()):
            current = self.counts.setdefault(role, bounds.min)
            signal = window.roles.get(role)
            if signal is not None:
                wanted = self.rules[role].recommend(window.end_ms, current, signal)
                self.counts[role] = min(max(wanted, bounds.min), bounds.max)
        return dict(self.counts)


@dataclass(slots=True)
class Recent:
    """Recommendations of a window of time."""

    length_ms: int
    entries: list[tuple[int, int]] = field(default_factory=list)

    def highest(self, now_ms: int, count: int) -> int:
        """The highest recommendation in the window, `count` included."""
        self.entries = [(at, value) for at, value in self.entries if at > now_ms - self.length_ms]
        self.entries.append((now_ms, count))
        return max(value for _, value in self.entries)
