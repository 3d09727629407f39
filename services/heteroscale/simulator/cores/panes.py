"""Windows straight from what was served: what the signals service makes of telemetry, without the telemetry.

Rates, latency and utilisation are exact sums over the window where the service adds up differences of samples; states are those of
the last sample before the end, save that an engine which ends between two samples is gone at once instead of draining a while longer.
tests/simulation/test_direct.py holds the two against each other.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.signals import GpuTypeSignal, InstanceCounts, Quantiles, RoleSignal, SignalWindow
from heteroscale.signals.quantiles import quantiles_ms
from heteroscale.simulator.cluster.actuator import Running
from heteroscale.simulator.cores.looks import RoleStates, Roster
from heteroscale.simulator.model.curves import kind_of
from heteroscale.simulator.model.fluid import Latency, Part, Served, Strength
from heteroscale.simulator.model.pool import Kind
from heteroscale.simulator.model.service import ServiceModel, edges_of

Floats = npt.NDArray[np.float64]

TOKENS, MISSED, UTIL, SM, KV, WEIGHT, NUMBER, RUNNING, WAITING = range(9)  # columns of a role's pane
COLUMNS: Final = 9
DIGITS: Final = 6


@dataclass(slots=True)
class Pane:
    """One hop of one service: sums per (role, GPU type), and latency buckets per kind of role."""

    sums: dict[tuple[str, str], Floats] = field(default_factory=dict)
    steps: int = 0
    ttft: Floats | None = None
    tbt: Floats | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """What each of k steps adds to a pane: `rows` (COLUMNS, k) per (role, GPU type), buckets (k, edges + 1)."""

    rows: Mapping[tuple[str, str], Floats]
    ttft: Floats
    tbt: Floats


@dataclass(frozen=True, slots=True)
class Look:
    """A role at the last sample before a window's end: its engines by state, and requests inside them."""

    states: RoleStates
    running: float
    waiting: float


class Inside(enum.Enum):
    """What a window says of requests inside engines: the last sample, as signals.v1 has it, or the mean, as scrapers of their own would."""

    LAST = "last"
    MEAN = "mean"


@dataclass(slots=True)
class Panes:
    """The open and the closed panes of one service, as many as a window is long."""

    model: ServiceModel
    inside: Inside = Inside.LAST
    edges: tuple[Floats, Floats] = field(init=False)
    closed: deque[Pane] = field(init=False)
    open: Pane = field(default_factory=Pane)
    newest: tuple[Stretch, int] | None = None
    roster: Roster = field(init=False)

    def __post_init__(self) -> None:
        window = self.model.spec.window
        self.edges = (edges_of(self.model.spec, Kind.PREFILL), edges_of(self.model.spec, Kind.DECODE))
        self.closed = deque(maxlen=window.size.ms // window.hop.ms)
        self.roster = Roster(self.model.spec)

    def stretch(self, served: Served, latency: Latency, strength: Strength) -> Stretch:
        """Steps that engines which do not change meanwhile have served, ready to be added piece by piece."""
        rows = {}
        for part in strength.parts:
            nothing = part.kind is Kind.OTHER
            rows[part.role, part.gpu_type] = np.zeros((COLUMNS, len(served.busy))) if nothing else self._rows(served, part, strength)
        return Stretch(rows, _buckets(served.requests, latency.ttft), _buckets(served.output, latency.tbt))

    def add(self, stretch: Stretch, first: int, last: int) -> None:
        """Steps [first, last) of a stretch fell into the open pane."""
        if last <= first:
            return
        pane = self.open
        self.newest = (stretch, last - 1)
        pane.steps += last - first
        for key, rows in stretch.rows.items():
            sums = rows[:, first:last].sum(axis=1)
            pane.sums[key] = pane.sums[key] + sums if key in pane.sums else sums
        ttft, tbt = stretch.ttft[first:last].sum(axis=0), stretch.tbt[first:last].sum(axis=0)
        pane.ttft = ttft if pane.ttft is None else pane.ttft + ttft
        pane.tbt = tbt if pane.tbt is None else pane.tbt + tbt

    def _rows(self, served: Served, part: Part, strength: Strength) -> Floats:
        """What each step adds to a pane, shape (COLUMNS, k)."""
        rows = np.empty((COLUMNS, len(served.busy)))
        rows[MISSED] = 0.0
        if part.kind is Kind.PREFILL:
            share = part.power / strength.prefill if strength.prefill else 0.0
            rows[TOKENS] = share * (served.missed + served.cached)
            rows[MISSED] = share * served.missed
            level, sm, kv = served.busy, served.busy * 0.9, served.busy * 0.5
            rows[RUNNING] = served.busy * (part.gpus_active / self.model.curves.prefill.engine_gpus)
            rows[WAITING] = share * served.prefill_waiting
        else:
            share = part.power / strength.decode if strength.decode else 0.0
            rows[TOKENS] = share * served.output
            per_gpu = self.model.curves.decode.peak_rate(served.context) * served.load * served.itl_s
            level = 1.0 - np.exp(-per_gpu * part.factor)
            sm, kv = level * (0.25 + 0.6 * served.load), served.kv
            rows[RUNNING] = per_gpu * (part.power / self.model.curves.decode.engine_gpus)
            rows[WAITING] = share * served.decode_waiting
        rows[UTIL] = part.gpus_active * level
        rows[SM] = part.gpus_active * sm
        rows[KV] = part.active * kv
        rows[WEIGHT] = part.gpus_serving
        rows[NUMBER] = part.serving
        return rows

    def close(self) -> None:
        """The end of a hop."""
        self.closed.append(self.open)
        self.open = Pane()

    def look(self, at_ms: int, running: Iterable[Running]) -> dict[RoleName, Look]:
        """The service as of a sample at `at_ms`, for the window that ends one interval later; `running` are its engines."""
        states = self.roster.states(at_ms, self.model.changes, running)
        return {role: Look(replace(one), self._last(role, RUNNING), self._last(role, WAITING)) for role, one in states.items()}

    def _last(self, role: str, column: int) -> float:
        if self.newest is None:
            return 0.0
        stretch, at = self.newest
        return sum(float(rows[column, at]) for (name, _), rows in sorted(stretch.rows.items()) if name == role)

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
        heard = bool(types) and total[NUMBER] > 0
        rate = round(float(total[TOKENS]) / seconds, DIGITS) if heard else None
        prefill, decode = kind is Kind.PREFILL, kind is Kind.DECODE
        states = look.states
        expected = states.serving + states.silent
        running, waiting = look.running, look.waiting
        if self.inside is Inside.MEAN:
            steps = max(1, sum(pane.steps for pane in self.closed))
            running, waiting = float(total[RUNNING]) / steps, float(total[WAITING]) / steps
        return RoleSignal(
            instances=InstanceCounts(loading=states.loading, serving=states.serving, draining=states.draining, silent=states.silent),
            coverage=round(states.usable / expected, DIGITS) if expected else None,
            decode_tps=rate if decode else None,
            prefill_tps=rate if prefill else None,
            prefill_missed_tps=round(float(total[MISSED]) / seconds, DIGITS) if heard and prefill else None,
            by_gpu_type={
                name: GpuTypeSignal(
                    serving=states.by_type.get(name, 0),
                    decode_tps=round(float(row[TOKENS]) / seconds, DIGITS) if decode else None,
                    prefill_tps=round(float(row[TOKENS]) / seconds, DIGITS) if prefill else None,
                )
                for name, row in sorted(types.items())
            },
            gpu_util=_mean(total, UTIL, WEIGHT) if states.serving else None,
            sm_active=_mean(total, SM, WEIGHT) if states.serving else None,
            kv_usage=_mean(total, KV, NUMBER) if states.serving else None,
            running=round(running, DIGITS) if states.serving + states.draining else None,
            waiting=round(waiting, DIGITS) if states.serving + states.draining else None,
            ttft_ms=self._quantiles("ttft", self.edges[0]) if prefill and heard else None,
            tbt_ms=self._quantiles("tbt", self.edges[1]) if decode and heard else None,
        )

    def _quantiles(self, name: str, edges: Floats) -> Quantiles | None:
        found = [counts for pane in self.closed if (counts := getattr(pane, name)) is not None]
        if not found:
            return None
        return quantiles_ms({tuple(edges.tolist()): np.maximum(np.sum(found, axis=0), 0.0).tolist()})


def _buckets(weight: Floats, within: Floats) -> Floats:
    """How many of a step's observations fell into each bucket, shape (k, edges + 1); `within` is the share up to each edge."""
    whole = np.empty((len(weight), within.shape[1] + 2))
    whole[:, 0], whole[:, 1:-1], whole[:, -1] = 0.0, within, 1.0
    return np.asarray(weight[:, None] * np.diff(whole, axis=1))


def _mean(total: Floats, column: int, weight: int) -> float | None:
    return round(float(total[column] / total[weight]), DIGITS) if total[weight] else None
