"""The engines of one role of one service as columns: who serves, how fast, and the counters each has run up."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.telemetry import EngineState, Histogram, InstanceSample

Floats = npt.NDArray[np.float64]


class Kind(enum.Enum):
    """What a role does with requests."""

    PREFILL = "prefill"
    DECODE = "decode"
    OTHER = "other"


@dataclass(slots=True)
class Engine:
    """One engine process."""

    name: str
    role: str
    gpu_type: str
    gpus: int
    nodes: tuple[str, ...]
    group: str
    started_at_ms: int
    state: EngineState = EngineState.LOADING
    routable: bool = False
    heard: bool = True  # false: it runs, and its telemetry does not arrive

    @property
    def takes_traffic(self) -> bool:
        """Whether the router sends it requests."""
        return self.state is EngineState.SERVING and self.routable


@dataclass(slots=True)
class Pool:
    """Engines of one role in the order of their names, with their counters since start, shapes (n,) and (n, edges + 1)."""

    role: str
    edges_s: Floats
    engines: list[Engine] = field(default_factory=list)
    active: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    capacity: Floats = field(default_factory=lambda: np.zeros(0))
    tokens: Floats = field(default_factory=lambda: np.zeros(0))
    prompt: Floats = field(default_factory=lambda: np.zeros(0))
    cached: Floats = field(default_factory=lambda: np.zeros(0))
    finished: Floats = field(default_factory=lambda: np.zeros(0))
    latency_sum_s: Floats = field(default_factory=lambda: np.zeros(0))
    counts: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    gauges: dict[str, Floats] = field(default_factory=dict)

    def refresh(self, engines: Mapping[str, Engine]) -> None:
        """Take over membership and states; counters follow their engine, a new one starts from zero."""
        mine = sorted((engine for engine in engines.values() if engine.role == self.role), key=lambda engine: engine.name)
        before = {id(engine): index for index, engine in enumerate(self.engines)}
        rows = np.array([before.get(id(engine), -1) for engine in mine], dtype=np.int64)
        for name in ("tokens", "prompt", "cached", "finished", "latency_sum_s"):
            setattr(self, name, _carry(getattr(self, name), rows))
        self.counts = _carry(self.counts.reshape(len(self.engines), len(self.edges_s) + 1), rows)
        self.gauges = {name: _carry(values, rows) for name, values in self.gauges.items()}
        self.engines = mine
        self.active = np.array([engine.takes_traffic for engine in mine], dtype=np.bool_)
        self.capacity = np.zeros(len(mine))

    def types(self) -> list[tuple[str, npt.NDArray[np.bool_], Floats]]:
        """GPU types present: name, which engines, their GPUs."""
        kinds = np.array([engine.gpu_type for engine in self.engines], dtype=object)
        gpus = np.array([engine.gpus for engine in self.engines], dtype=np.float64)
        return [(kind, np.asarray(kinds == kind, dtype=np.bool_), gpus) for kind in sorted(set(kinds.tolist()))]

    def shares(self) -> Floats:
        """Each engine's part of the role's work: by capacity, among those that take traffic."""
        able = np.where(self.active, self.capacity, 0.0)
        total = able.sum()
        return np.asarray(able / total if total > 0 else np.zeros(len(self.engines)))

    def observe(self, observations: Floats, within: Floats, mean_s: Floats) -> None:
        """Add latency observations per engine; `within` (n, edges) or (edges,) is the share at or below each edge."""
        inside = np.diff(np.concatenate([np.zeros((*within.shape[:-1], 1)), within, np.ones((*within.shape[:-1], 1))], axis=-1), axis=-1)
        self.counts += observations[:, None] * inside
        self.latency_sum_s += observations * mean_s

    def samples(self, at_ms: int, kind: Kind, layout: str) -> list[InstanceSample]:
        """What the engines would say of themselves at this moment. Counters are whole numbers, as real ones are."""
        if not self.engines:
            return []
        columns = [_whole(values) for values in (self.tokens, self.prompt, self.cached, self.finished)]
        counts = np.floor(self.counts + 1e-6).astype(np.int64).tolist()
        gauges = {name: values.round(6).tolist() for name, values in self.gauges.items()}
        return [
            _sample(
                engine,
                at_ms,
                kind,
                [column[index] for column in columns],
                gauges,
                index,
                layout,
                counts[index],
                float(self.latency_sum_s[index]),
            )
            for index, engine in enumerate(self.engines)
            if engine.heard
        ]


def _carry(values: Floats, rows: npt.NDArray[np.int64]) -> Floats:
    if not len(values):
        return np.zeros((len(rows), *values.shape[1:]))
    taken = values[np.maximum(rows, 0)]
    taken[rows < 0] = 0.0
    return np.asarray(taken)


def _whole(values: Floats) -> list[int]:
    whole: list[int] = np.floor(values + 1e-6).astype(np.int64).tolist()
    return whole


def _sample(  # noqa: PLR0913, PLR0917 - one call per sample on the hottest path of the simulator; a struct between would double its cost
    engine: Engine,
    at_ms: int,
    kind: Kind,
    counters: Sequence[int],
    gauges: Mapping[str, Sequence[float]],
    index: int,
    layout: str,
    counts: list[int | float],
    sum_s: float,
) -> InstanceSample:
    if engine.state is EngineState.LOADING:
        return InstanceSample(
            instance=engine.name,
            role=engine.role,
            state=engine.state,
            at_ms=at_ms,
            node=engine.nodes[0],
            group=engine.group,
            gpu_type=engine.gpu_type,
            gpus=engine.gpus,
            started_at_ms=engine.started_at_ms,
        )
    histogram = Histogram(layout=layout, counts=counts, sum_s=round(sum_s, 6))
    prefill = kind is Kind.PREFILL
    return InstanceSample(
        instance=engine.name,
        role=engine.role,
        state=engine.state,
        at_ms=at_ms,
        node=engine.nodes[0],
        group=engine.group,
        gpu_type=engine.gpu_type,
        gpus=engine.gpus,
        started_at_ms=engine.started_at_ms,
        generation_tokens=None if prefill else counters[0],
        prompt_tokens=counters[1] if prefill else None,
        cached_prompt_tokens=counters[2] if prefill else None,
        requests_finished=counters[3],
        running=gauges["running"][index],
        waiting=gauges["waiting"][index],
        kv_usage=gauges["kv_usage"][index],
        gpu_util=gauges["gpu_util"][index],
        sm_active=gauges["sm_active"][index],
        ttft=histogram if prefill else None,
        tbt=None if prefill else histogram,
    )
