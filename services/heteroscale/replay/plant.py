"""What runs, after the horizon of a counterfactual: a deliberately small model, and always marked as one.

Demand stays as recorded. A commanded instance serves one start-up time later, one that is let go leaves at once. Utilisation is
spread over what serves. Latency is taken as recorded while no more serves than then, and as unknown once more does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from heteroscale.contracts.decisions import RoleAfter
from heteroscale.contracts.names import InstanceName, RoleName
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.signals import InstanceCounts, RoleSignal, SignalWindow

STARTUP_MS = 120_000  # where the recording shows none


def startup_ms(placements: Iterable[Placement]) -> int:
    """The median time from reserved to ready that the recording shows."""
    born: dict[InstanceName, int] = {}
    took: dict[InstanceName, int] = {}
    for placement in placements:
        if placement.dry_run:
            continue
        for change in placement.changes:
            if change.from_ is None:
                born[change.instance] = placement.at_ms
            elif change.to is InstanceState.READY and change.instance in born:
                took.setdefault(change.instance, placement.at_ms - born[change.instance])
    return round(statistics.median(took.values())) if took else STARTUP_MS


@dataclass(slots=True)
class _Role:
    serving: int
    draining: int = 0
    starting: list[int] = field(default_factory=list)  # instants at which they will serve


@dataclass(slots=True)
class Plant:
    """Counts per role from the horizon on."""

    startup_ms: int
    roles: dict[RoleName, _Role] = field(default_factory=dict)

    def begin(self, window: SignalWindow) -> None:
        """As the last recorded window shows it."""
        for role, seen in window.roles.items():
            counts = seen.instances
            ready_at = window.end_ms + self.startup_ms // 2
            self.roles[role] = _Role(counts.serving + counts.silent, counts.draining, [ready_at] * counts.loading)

    def obey(self, after: Mapping[RoleName, RoleAfter], now_ms: int) -> None:
        """Carry out what a decision leaves commanded."""
        for role, wanted in after.items():
            has = self.roles.setdefault(role, _Role(0))
            missing = wanted.replicas - has.serving - len(has.starting)
            if missing > 0:
                back = min(missing, has.draining)
                has.draining -= back
                has.serving += back
                has.starting += [now_ms + self.startup_ms] * (missing - back)
            while wanted.replicas < has.serving + len(has.starting) and has.starting:
                has.starting.pop()
            if has.serving > wanted.replicas:
                has.draining += has.serving - wanted.replicas
                has.serving = wanted.replicas
            has.draining = min(has.draining, wanted.draining)

    def window(self, recorded: SignalWindow) -> SignalWindow:
        """The recorded window with these counts in it."""
        roles = {role: self._role(role, seen, recorded.end_ms) for role, seen in sorted(recorded.roles.items())}
        return msgspec.structs.replace(recorded, roles=roles)

    def _role(self, role: RoleName, seen: RoleSignal, now_ms: int) -> RoleSignal:
        has = self.roles.setdefault(role, _Role(0))
        has.serving += sum(at <= now_ms for at in has.starting)
        has.starting = [at for at in has.starting if at > now_ms]
        before = seen.instances.serving
        spread = before / has.serving if has.serving else 1.0
        known = has.serving <= before
        total = sum(by.serving for by in seen.by_gpu_type.values())
        return msgspec.structs.replace(
            seen,
            instances=InstanceCounts(loading=len(has.starting), serving=has.serving, draining=has.draining, silent=0),
            coverage=1.0 if has.serving else None,
            gpu_util=_spread(seen.gpu_util, spread),
            sm_active=_spread(seen.sm_active, spread),
            kv_usage=_spread(seen.kv_usage, spread),
            by_gpu_type={
                name: msgspec.structs.replace(by, serving=round(by.serving * has.serving / total) if total else by.serving)
                for name, by in seen.by_gpu_type.items()
            },
            ttft_ms=seen.ttft_ms if known else None,
            tbt_ms=seen.tbt_ms if known else None,
        )


def _spread(mean: float | None, factor: float) -> float | None:
    return None if mean is None else round(min(1.0, mean * factor), 6)
