"""Windows straight from what was served: what the signals service makes of telemetry, without the telemetry.

Rates, latency and utilisation are exact sums over the window where the service adds up differences of samples; states are those of
the last sample before the end, save that an engine which ends between two samples is gone at once instead of draining a while longer.
tests/simulation/test_direct.py holds the two against each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.signals import GpuTypeSignal, InstanceCounts, Quantiles, RoleSignal, SignalWindow
from heteroscale.contracts.telemetry import EngineState
from heteroscale.signals.quantiles import quantiles_ms
from heteroscale.simulator.actuator import Running
from heteroscale.simulator.curves import kind_of
from heteroscale.simulator.fluid import Latency, Part, Served, Strength
from heteroscale.simulator.pool import Kind
from heteroscale.simulator.service import ServiceModel, edges_of

Floats = npt.NDArray[np.float64]

USABLE_SHARE: Final = 0.8
TOKENS, MISSED, UTIL, SM, KV, WEIGHT, NUMBER, HEARD = range(8)  # columns of a role's pane
COLUMNS: Final = 8
DIGITS: Final = 6


@dataclass(slots=True)
class Pane:
    """One hop of one service: sums per (role, GPU type), and latency buckets per kind of role."""

    sums: dict[tuple[str, str], Floats] = field(default_factory=dict)
    ttft: Floats | None = None
    tbt: Floats | None = None

    def row(self, role: str, gpu_type: str) -> Floats:
        """The sums of a role on a type."""
        found = self.sums.get((role, gpu_type))
        if found is None:
            found = self.sums[(role, gpu_type)] = np.zeros(COLUMNS)
        return found


@dataclass(frozen=True, slots=True)
class Ghost:
    """An engine that ended without a word; its last sample said that it serves."""

    role: str
    last_at_ms: int


@dataclass(frozen=True, slots=True)
class Look:
    """A role at the last sample before a window's end."""

    loading: int
    serving: int
    draining: int
    silent: int
    usable: int
    by_type: Mapping[str, int]
    running: float
    waiting: float


@dataclass(slots=True)
class Panes:
    """The open and the closed panes of one service, as many as a window is long."""

    model: ServiceModel
    edges: tuple[Floats, Floats] = field(init=False)
    closed: deque[Pane] = field(init=False)
    open: Pane = field(default_factory=Pane)
    newest: tuple[Served, Strength] | None = None
    ghosts: list[Ghost] = field(default_factory=list)

    def __post_init__(self) -> None:
        window = self.model.spec.window
        self.edges = (edges_of(self.model.spec, Kind.PREFILL), edges_of(self.model.spec, Kind.DECODE))
        self.closed = deque(maxlen=window.size.ms // window.hop.ms)

    def add(self, served: Served, latency: Latency, strength: Strength) -> None:
        """Steps that were served inside the open pane."""
        pane = self.open
        self.newest = (served, strength)
        self._buckets(pane, served, latency)
        for part in strength.parts:
            row = pane.row(part.role, part.gpu_type)
            if part.kind is Kind.PREFILL:
                share = part.power / strength.prefill if strength.prefill else 0.0
                row[TOKENS] += share * float((served.missed + served.cached).sum())
                row[MISSED] += share * float(served.missed.sum())
                level, sm, kv = served.busy, served.busy * 0.9, served.busy * 0.5
            elif part.kind is Kind.DECODE:
                row[TOKENS] += (part.power / strength.decode if strength.decode else 0.0) * float(served.output.sum())
                level, sm, kv = self._decode_gauges(served, part)
            else:
                continue
            steps = len(served.busy)
            row[UTIL] += part.gpus_active * float(level.sum())
            row[SM] += part.gpus_active * float(sm.sum())
            row[KV] += part.active * float(kv.sum())
            row[WEIGHT] += part.gpus_serving * steps
            row[NUMBER] += part.serving * steps
            row[HEARD] += part.serving

    def _decode_gauges(self, served: Served, part: Part) -> tuple[Floats, Floats, Floats]:
        batch = self.model.curves.decode.peak_rate(served.context) * part.factor * served.load * served.itl_s
        level = 1.0 - np.exp(-batch)
        kv = self.model.curves.decode.kv_usage(served.load, served.context)
        return level, level * (0.25 + 0.6 * served.load), kv

    @staticmethod
    def _buckets(pane: Pane, served: Served, latency: Latency) -> None:
        for name, within, weight in (("ttft", latency.ttft, served.requests), ("tbt", latency.tbt, served.output)):
            cumulative = weight @ within
            counts = np.diff(np.concatenate([[0.0], cumulative, [weight.sum()]]))
            known = getattr(pane, name)
            setattr(pane, name, counts if known is None else known + counts)

    def close(self) -> None:
        """The end of a hop."""
        self.closed.append(self.open)
        self.open = Pane()

    def look(self, at_ms: int, running: Iterable[Running]) -> dict[RoleName, Look]:
        """States as of a sample at `at_ms`, for the window that ends one interval later."""
        spec = self.model.spec
        end_ms = at_ms + spec.window.interval.ms
        start_ms = end_ms - spec.window.size.ms
        counts: dict[str, dict[EngineState, int]] = {role: dict.fromkeys(EngineState, 0) for role in spec.roles}
        usable = dict.fromkeys(counts, 0)
        by_type: dict[str, dict[str, int]] = {role: {} for role in counts}
        for run in running:
            engine = run.engine
            if run.service != spec.service or engine.started_at_ms > at_ms:
                continue
            here = counts.setdefault(engine.role, dict.fromkeys(EngineState, 0))
            here[engine.state] += 1
            if engine.state is EngineState.SERVING:
                types = by_type.setdefault(engine.role, {})
                types[engine.gpu_type] = types.get(engine.gpu_type, 0) + 1
                first = run.ready_at_ms + (-run.ready_at_ms) % spec.window.interval.ms
                wanted = end_ms - max(start_ms, engine.started_at_ms)
                usable[engine.role] = usable.get(engine.role, 0) + (end_ms - max(start_ms, first) >= USABLE_SHARE * wanted)
        silent = self._silent(end_ms, counts)
        return {
            role: Look(
                loading=states[EngineState.LOADING],
                serving=states[EngineState.SERVING],
                draining=states[EngineState.DRAINING],
                silent=silent.get(role, 0),
                usable=usable.get(role, 0),
                by_type=by_type.get(role, {}),
                running=self._running(role),
                waiting=self._waiting(role),
            )
            for role, states in sorted(counts.items())
        }

    def _silent(self, end_ms: int, counts: Mapping[str, dict[EngineState, int]]) -> dict[str, int]:
        """Ghosts count as serving until they are called silent, and as silent until they are forgotten."""
        rules = self.model.spec.window
        self.ghosts = [ghost for ghost in self.ghosts if end_ms - ghost.last_at_ms <= rules.forget.ms]
        silent: dict[str, int] = {}
        for ghost in self.ghosts:
            if end_ms - ghost.last_at_ms > rules.silence.ms:
                silent[ghost.role] = silent.get(ghost.role, 0) + 1
            else:
                counts[ghost.role][EngineState.SERVING] += 1
        return silent

    def _running(self, role: str) -> float:
        if self.newest is None:
            return 0.0
        served, strength = self.newest
        parts = [part for part in strength.parts if part.role == role]
        if kind_of(role, self.model.spec) is Kind.PREFILL:
            return float(served.busy[-1]) * sum(part.gpus_active for part in parts) / self.model.curves.prefill.engine_gpus
        power = sum(part.power for part in parts) / self.model.curves.decode.engine_gpus
        rate = float(self.model.curves.decode.peak_rate(served.context[-1])) * power
        return rate * float(served.load[-1]) * float(served.itl_s[-1])

    def _waiting(self, role: str) -> float:
        if self.newest is None:
            return 0.0
        served, strength = self.newest
        prefill = kind_of(role, self.model.spec) is Kind.PREFILL
        whole = strength.prefill if prefill else strength.decode
        part = sum(part.power for part in strength.parts if part.role == role) / whole if whole else 0.0
        return part * (served.prefill_waiting if prefill else served.decode_waiting)

    def window(self, end_ms: int, looks: Mapping[RoleName, Look]) -> SignalWindow:
        """The window that ends with the newest closed pane."""
        spec = self.model.spec
        seconds = spec.window.size.ms / 1000
        sums: dict[str, dict[str, Floats]] = {}
        for pane in self.closed:
            for (role, gpu_type), row in pane.sums.items():
                types = sums.setdefault(role, {})
                types[gpu_type] = types[gpu_type] + row if gpu_type in types else row
        roles = {role: self._role(role, look, sums.get(role, {}), seconds) for role, look in looks.items()}
        return SignalWindow(
            service=spec.service, start_ms=end_ms - spec.window.size.ms, end_ms=end_ms, spec_revision=spec.revision, roles=roles
        )

    def _role(self, role: str, look: Look, types: Mapping[str, Floats], seconds: float) -> RoleSignal:
        kind = kind_of(role, self.model.spec)
        total = sum((row for _, row in sorted(types.items())), np.zeros(COLUMNS))
        heard = bool(types) and total[HEARD] > 0
        rate = round(float(total[TOKENS]) / seconds, DIGITS) if heard else None
        prefill, decode = kind is Kind.PREFILL, kind is Kind.DECODE
        expected = look.serving + look.silent
        return RoleSignal(
            instances=InstanceCounts(loading=look.loading, serving=look.serving, draining=look.draining, silent=look.silent),
            coverage=round(look.usable / expected, DIGITS) if expected else None,
            decode_tps=rate if decode else None,
            prefill_tps=rate if prefill else None,
            prefill_missed_tps=round(float(total[MISSED]) / seconds, DIGITS) if heard and prefill else None,
            by_gpu_type={
                name: GpuTypeSignal(
                    serving=look.by_type.get(name, 0),
                    decode_tps=round(float(row[TOKENS]) / seconds, DIGITS) if decode else None,
                    prefill_tps=round(float(row[TOKENS]) / seconds, DIGITS) if prefill else None,
                )
                for name, row in sorted(types.items())
            },
            gpu_util=_mean(total, UTIL, WEIGHT) if look.serving else None,
            sm_active=_mean(total, SM, WEIGHT) if look.serving else None,
            kv_usage=_mean(total, KV, NUMBER) if look.serving else None,
            running=round(look.running, DIGITS) if look.serving + look.draining else None,
            waiting=round(look.waiting, DIGITS) if look.serving + look.draining else None,
            ttft_ms=self._quantiles("ttft", self.edges[0]) if prefill and heard else None,
            tbt_ms=self._quantiles("tbt", self.edges[1]) if decode and heard else None,
        )

    def _quantiles(self, name: str, edges: Floats) -> Quantiles | None:
        found = [counts for pane in self.closed if (counts := getattr(pane, name)) is not None]
        if not found:
            return None
        return quantiles_ms({tuple(edges.tolist()): np.maximum(np.sum(found, axis=0), 0.0).tolist()})


def _mean(total: Floats, column: int, weight: int) -> float | None:
    return round(float(total[column] / total[weight]), DIGITS) if total[weight] else None
