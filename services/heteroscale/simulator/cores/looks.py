"""Who was there at a window's last sample: states per role, as the signals service would have them from telemetry.

An engine that ended without a word is a ghost: it counts as serving until it is called silent, then as silent until it is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import EngineState
from heteroscale.simulator.cluster.actuator import Running

USABLE_SHARE: Final = 0.8  # of a window, or of an engine's life if that is shorter


@dataclass(frozen=True, slots=True)
class Ghost:
    """An engine that ended without a word; its last sample said that it serves."""

    role: str
    last_at_ms: int


@dataclass(slots=True)
class RoleStates:
    """Engines of one role by state; `usable` are those whose samples cover enough of the window."""

    loading: int = 0
    serving: int = 0
    draining: int = 0
    silent: int = 0
    usable: int = 0
    by_type: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Roster:
    """The states of one service's engines, counted anew only while they can still change without an engine's doing.

    They can while an engine has not served for a whole window, or a ghost is remembered.
    """

    spec: ServiceSpec
    ghosts: list[Ghost] = field(default_factory=list)
    counted_at: int | None = None
    known: dict[RoleName, RoleStates] = field(default_factory=dict)

    def states(self, at_ms: int, changes: int, running: Iterable[Running]) -> Mapping[RoleName, RoleStates]:
        """As of a sample at `at_ms`, for the window that ends one interval later; `changes` counts changes of engines so far."""
        if self.counted_at != changes:
            self.known = self._count(at_ms, running)
            calm = not self.ghosts and all(one.usable == one.serving for one in self.known.values())
            self.counted_at = changes if calm else None
        return self.known

    def _count(self, at_ms: int, running: Iterable[Running]) -> dict[RoleName, RoleStates]:
        rules = self.spec.window
        end_ms = at_ms + rules.interval.ms
        start_ms = end_ms - rules.size.ms
        found = {role: RoleStates() for role in self.spec.roles}
        for run in running:
            engine = run.engine
            if engine.started_at_ms > at_ms:
                continue
            states = found.setdefault(engine.role, RoleStates())
            match engine.state:
                case EngineState.LOADING:
                    states.loading += 1
                case EngineState.DRAINING:
                    states.draining += 1
                case EngineState.SERVING:
                    states.serving += 1
                    states.by_type[engine.gpu_type] = states.by_type.get(engine.gpu_type, 0) + 1
                    first = run.ready_at_ms + (-run.ready_at_ms) % rules.interval.ms
                    wanted = end_ms - max(start_ms, engine.started_at_ms)
                    states.usable += end_ms - max(start_ms, first) >= USABLE_SHARE * wanted
                case EngineState.STOPPING:
                    pass
        self._haunt(end_ms, found)
        return dict(sorted(found.items()))

    def _haunt(self, end_ms: int, found: Mapping[RoleName, RoleStates]) -> None:
        rules = self.spec.window
        self.ghosts = [ghost for ghost in self.ghosts if end_ms - ghost.last_at_ms <= rules.forget.ms]
        for ghost in self.ghosts:
            if end_ms - ghost.last_at_ms > rules.silence.ms:
                found[ghost.role].silent += 1
            else:
                found[ghost.role].serving += 1
