"""What a course of decisions cost and did, added up as it goes by."""

from __future__ import annotations

import msgspec

from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.signals import Quantiles, SignalWindow
from heteroscale.contracts.spec import ServiceSpec

OBSERVATIONS_MIN = 50  # fewer neither alarm nor block, as in the law
MS_PER_HOUR = 3_600_000
TURNS = frozenset({Action.SCALE_OUT, Action.SCALE_IN})


class Figures(msgspec.Struct, frozen=True):
    """GPU-hours are those commanded, draining included. `in_slo`: share of requests that met both targets, where it is simulated."""

    decisions: int
    scale_outs: int
    scale_ins: int
    restores: int
    direction_changes: int
    gpu_hours: float
    guard_alarm_minutes: float
    peak_gpus: int
    in_slo: float | None = None


class Ledger:
    """Adds up a course, window by window."""

    def __init__(self) -> None:
        self._decisions = 0
        self._moves = dict.fromkeys(Action, 0)
        self._direction: Action | None = None
        self._turned = 0
        self._gpu_ms = 0
        self._alarm_ms = 0
        self._peak = 0

    def add(self, spec: ServiceSpec, window: SignalWindow, decision: Decision | None, judge: ServiceSpec) -> None:
        """One window and its decision under `spec`, in order; the guards of `judge` say whether it was an alarm."""
        if decision is None:
            return
        self._decisions += 1
        self._moves[decision.action] += 1
        if decision.action in TURNS:
            self._turned += self._direction not in {None, decision.action}
            self._direction = decision.action
        gpus = sum((after.replicas + after.draining) * gpus_of(spec, role) for role, after in decision.after.items())
        self._gpu_ms += gpus * spec.window.hop.ms
        self._peak = max(self._peak, gpus)
        self._alarm_ms += spec.window.hop.ms * alarms(judge, window)

    def figures(self, in_slo: float | None = None) -> Figures:
        """So far."""
        return Figures(
            decisions=self._decisions,
            scale_outs=self._moves[Action.SCALE_OUT],
            scale_ins=self._moves[Action.SCALE_IN],
            restores=self._moves[Action.RESTORE],
            direction_changes=self._turned,
            gpu_hours=round(self._gpu_ms / MS_PER_HOUR, 2),
            guard_alarm_minutes=round(self._alarm_ms / 60_000, 1),
            peak_gpus=self._peak,
            in_slo=None if in_slo is None else round(in_slo, 6),
        )


def gpus_of(spec: ServiceSpec, role: str) -> int:
    """GPUs of one instance of a role."""
    found = spec.roles.get(role)
    if found is None:
        return 0
    if found.parts:
        return sum(part.count * part.gpus for part in found.parts.values())
    return found.gpus or 0


def alarms(spec: ServiceSpec, window: SignalWindow) -> bool:
    """Whether any guard's latency is at or above its moderate threshold in the window."""
    for guard in spec.guards:
        for role, seen in window.roles.items():
            quantiles: Quantiles | None = getattr(seen, f"{guard.latency}_ms", None)
            if quantiles is None or quantiles.count < OBSERVATIONS_MIN or (guard.role is not None and role != guard.role):
                continue
            value: float = getattr(quantiles, str(guard.quantile))
            if value >= guard.moderate.ms:
                return True
    return False
