"""telemetry.v1: what engines say of themselves, and the ticks that are the loop's only clock."""

from __future__ import annotations

import enum
from typing import TypeAlias

from heteroscale.contracts.message import FreeText, Message
from heteroscale.contracts.names import GpuTypeName, InstanceName, NodeName, RoleName, ServiceName

Number: TypeAlias = int | float


class EngineState(enum.StrEnum):
    """What an engine process is doing, in its own words."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"


class Histogram(Message, frozen=True, kw_only=True, gc=False):
    """Observations since start. `counts` has one entry per edge of the layout and one for +Inf; not cumulative."""

    layout: str
    counts: list[Number]
    sum_s: float | None = None


class InstanceSample(Message, frozen=True, kw_only=True, gc=False):
    """One instance at one moment. Counters count since start; null means that the engine lacks them."""

    instance: InstanceName
    role: RoleName
    state: EngineState
    at_ms: int
    node: NodeName | None = None
    group: str | None = None
    gpu_type: GpuTypeName | None = None
    gpus: int | None = None
    started_at_ms: int | None = None
    generation_tokens: Number | None = None
    prompt_tokens: Number | None = None
    cached_prompt_tokens: Number | None = None
    requests_finished: Number | None = None
    running: Number | None = None
    waiting: Number | None = None
    kv_usage: float | None = None
    gpu_util: float | None = None
    sm_active: float | None = None
    ttft: Histogram | None = None
    tbt: Histogram | None = None


class Samples(Message, frozen=True, kw_only=True, tag_field="kind", tag="samples"):
    """A batch of samples of one service, from one source (a node agent, an engine)."""

    service: ServiceName
    source: FreeText = ""
    layouts: dict[str, list[float]] = {}
    samples: list[InstanceSample]


class Tick(Message, frozen=True, kw_only=True, tag_field="kind", tag="tick"):
    """Time as a record."""

    at_ms: int


TelemetryRecord: TypeAlias = Samples | Tick
