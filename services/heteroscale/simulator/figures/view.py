"""What a person watches while a day is played: per service, from the newest window, decision and placement."""

from __future__ import annotations

from dataclasses import dataclass

from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.placements import InstanceState
from heteroscale.contracts.signals import SignalWindow
from heteroscale.simulator.cluster.world import STEP_MS, World
from heteroscale.simulator.figures.seen import Seen
from heteroscale.simulator.load.traffic import REQUESTS

WAITING = frozenset({InstanceState.RESERVED, InstanceState.STARTING})


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One line of the live view. `demand_rps` is what the trace offers; the rest is read from the topics."""

    service: str
    demand_rps: float
    decode_tps: float | None
    prefill_tps: float | None
    replicas: dict[str, int]
    pending: int
    draining: int
    gpu_util: dict[str, float]
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class View:
    """One moment of virtual time. `progress` 0..1 of the day; negative during warm-up."""

    now_ms: int
    progress: float
    services: list[ServiceView]
    moves: list[Decision]


def of(world: World, seen: Seen) -> View:
    """The moment as the topics show it; takes the moves since the last call."""
    scene = world.scene
    moves, seen.moves = seen.moves, []
    progress = (world.now_ms - scene.start_ms) / max(1, scene.ends_at_ms - scene.start_ms)
    services = [_service(world, seen, name) for name in sorted(world.models)]
    return View(world.now_ms, min(1.0, progress), services, moves)


def _service(world: World, seen: Seen, name: str) -> ServiceView:
    model, window, placement = world.models[name], seen.windows.get(name), seen.placements.get(name)
    index = (world.now_ms - world.scene.opens_at_ms) // STEP_MS - 1
    demand = float(model.load[index, REQUESTS]) / (STEP_MS / 1000) if 0 <= index < len(model.load) else 0.0
    placed = [instance for group in placement.groups for instance in group.instances] if placement else []
    ready = [one.role for one in placed if one.state is InstanceState.READY]
    return ServiceView(
        service=name,
        demand_rps=demand,
        decode_tps=_largest(window, "decode_tps"),
        prefill_tps=_largest(window, "prefill_tps"),
        replicas={role: ready.count(role) for role in sorted(model.spec.roles)},
        pending=sum(1 for one in placed if one.state in WAITING),
        draining=sum(1 for one in placed if one.state in {InstanceState.DRAINING, InstanceState.STOPPING}),
        gpu_util={role: signal.gpu_util for role, signal in window.roles.items() if signal.gpu_util is not None} if window else {},
        decision=seen.decisions.get(name),
    )


def _largest(window: SignalWindow | None, metric: str) -> float | None:
    values = [getattr(signal, metric) for signal in window.roles.values()] if window else []
    return max((value for value in values if value is not None), default=None)
