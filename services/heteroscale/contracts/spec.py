"""specs.v1: what people want for a service. Shapes and defaults only; what makes sense is judged in decision.specs.validation."""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

from heteroscale.contracts.message import FreeText, Message
from heteroscale.contracts.names import FleetName, GpuTypeName, RoleName, ServiceName
from heteroscale.contracts.units import Duration, Instant, Percent


class Mode(enum.StrEnum):
    """How far the loop may act for a service."""

    SHADOW = "shadow"
    ACTIVE = "active"
    PAUSED_IN = "paused-in"
    PAUSED_OUT = "paused-out"
    PAUSED = "paused"
    SUSPENDED = "suspended"


class Level(enum.StrEnum):
    """Topology levels, narrow to wide."""

    S0 = "s0"
    S1 = "s1"
    S2 = "s2"
    CLUSTER = "cluster"


class AffinityMode(enum.StrEnum):
    """Whether the affinity level is a ceiling or a wish."""

    REQUIRED = "required"
    PREFERRED = "preferred"


class Partial(enum.StrEnum):
    """Whether part of a request may be placed."""

    WHOLE_UNITS = "whole-units"
    NONE = "none"


class Spread(enum.StrEnum):
    """Below which level instances of a role keep apart, where that costs nothing else."""

    NONE = "none"
    NODE = "node"
    S0 = "s0"
    S1 = "s1"


class Metric(enum.StrEnum):
    """Selectable signals."""

    DECODE_TPS = "decode_tps"
    PREFILL_TPS = "prefill_tps"
    PREFILL_MISSED_TPS = "prefill_missed_tps"
    GPU_UTIL = "gpu_util"
    SM_ACTIVE = "sm_active"
    KV_USAGE = "kv_usage"
    NONE = "none"


class Slo(Message, frozen=True, kw_only=True):
    """Latency targets for reports and calibration."""

    ttft: Duration | None = None
    tbt: Duration | None = None


class GpuChoice(Message, frozen=True, kw_only=True):
    """A GPU type an instance may run on; `weight` is its throughput relative to the type that targets are stated for."""

    type: GpuTypeName
    weight: float = 1.0


class PartSpec(Message, frozen=True, kw_only=True):
    """One part of a role (MoE attention or FFN)."""

    count: int
    gpus: int


class RoleSpec(Message, frozen=True, kw_only=True):
    """Bounds and hardware of a role. `gpus` per instance; a role with `parts` has the sum of theirs."""

    min: int
    max: int
    gpus: int | None = None
    gpu_types: list[GpuChoice] = []
    parts: dict[str, PartSpec] | None = None
    within: Level | None = None


class WindowSpec(Message, frozen=True, kw_only=True):
    """Hopping windows of `size` every `hop`; `interval` is the expected time between samples."""

    size: Duration = Duration(60_000)
    hop: Duration = Duration(15_000)
    interval: Duration = Duration(5_000)
    allowed_lateness: Duration = Duration(5_000)
    silence: Duration = Duration(15_000)
    forget: Duration = Duration(600_000)


class SignalSpec(Message, frozen=True, kw_only=True):
    """A signal and its target per serving instance of weight 1 (tokens/s, or a mean in 0..1)."""

    metric: Metric
    role: RoleName | None = None
    target: float | None = None
    min_coverage: float = 0.8


class GuardSpec(Message, frozen=True, kw_only=True):
    """Latency as stepwise negative feedback."""

    latency: Literal["ttft", "tbt"]
    quantile: Literal["p50", "p90", "p95", "p99"] = "p95"
    moderate: Duration
    severe: Duration
    moderate_step: Percent = Percent(0.10)
    severe_step: Percent = Percent(0.20)
    role: RoleName | None = None


class RatePolicy(Message, frozen=True, kw_only=True):
    """At most `value` percent or pods of change within `period`."""

    type: Literal["percent", "pods"]
    value: int
    period: Duration


class ScaleOut(Message, frozen=True, kw_only=True):
    """How fast a service may grow."""

    tolerance: Percent = Percent(0.05)
    stabilization: Duration = Duration(0)
    cooldown: Duration = Duration(60_000)
    policies: list[RatePolicy] = msgspec.field(
        default_factory=lambda: [RatePolicy(type="percent", value=100, period=Duration(60_000))],
    )
    select: Literal["max", "min", "disabled"] = "max"


class Soft(Message, frozen=True, kw_only=True):
    """Soft scale-in: withdraw, watch for `observe`, then stop or restore."""

    observe: Duration = Duration(180_000)


class ScaleIn(Message, frozen=True, kw_only=True):
    """How fast a service may shrink."""

    tolerance: Percent = Percent(0.15)
    stabilization: Duration = Duration(300_000)
    cooldown: Duration = Duration(600_000)
    policies: list[RatePolicy] = msgspec.field(
        default_factory=lambda: [RatePolicy(type="percent", value=20, period=Duration(300_000))],
    )
    select: Literal["max", "min", "disabled"] = "max"
    soft: Soft | None = Soft()


class Pending(Message, frozen=True, kw_only=True):
    """How long a commanded instance may take to serve before it no longer counts."""

    timeout: Duration = Duration(900_000)


class Behavior(Message, frozen=True, kw_only=True):
    """How a service may move."""

    scale_out: ScaleOut = ScaleOut()
    scale_in: ScaleIn = ScaleIn()
    pending: Pending = Pending()


class MissingData(Message, frozen=True, kw_only=True):
    """What to do when nothing is heard for `escalate_after`."""

    fallback: Literal["hold", "schedule", "max-recent"] = "hold"
    escalate_after: Duration = Duration(300_000)


class RoleBounds(Message, frozen=True, kw_only=True):
    """Bounds that a schedule puts in place of the base."""

    min: int | None = None
    max: int | None = None


class Schedule(Message, frozen=True, kw_only=True):
    """Half-open [start, end) in a zone, on given days: other bounds, or fixed counts."""

    name: str
    timezone: str
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]]
    start: str
    end: str
    roles: dict[RoleName, RoleBounds] | None = None
    replicas: dict[RoleName, int] | None = None


class Affinity(Message, frozen=True, kw_only=True):
    """The domain that all roles of a group share."""

    level: Level = Level.S2
    mode: AffinityMode = AffinityMode.REQUIRED


class PlacementSpec(Message, frozen=True, kw_only=True):
    """How placement treats the service."""

    affinity: Affinity = Affinity()
    prefer: Level | None = Level.S1
    wait: Duration = Duration(0)
    partial: Partial = Partial.WHOLE_UNITS
    spread: Spread = Spread.NONE


class ReadyRatio(Message, frozen=True, kw_only=True):
    """How far the ready ratio may drift before the excess is held back from routing."""

    tolerance: Percent = Percent(0.25)


class ServiceSpec(Message, frozen=True, kw_only=True):
    """Everything people say about one service. `revision`, `applied_at_ms`, `applied_by` and `reason` are written by the command line."""

    service: ServiceName
    fleet: FleetName = "default"
    mode: Mode = Mode.SHADOW
    until: Instant | None = None
    then: Mode | None = None
    slo: Slo | None = None
    priority: int = 100
    roles: dict[RoleName, RoleSpec]
    ratio: dict[RoleName, int]
    window: WindowSpec = WindowSpec()
    signals: list[SignalSpec]
    guards: list[GuardSpec] = []
    behavior: Behavior = Behavior()
    missing_data: MissingData = MissingData()
    schedules: list[Schedule] = []
    placement: PlacementSpec | Literal["none"] = PlacementSpec()
    ready_ratio: ReadyRatio = ReadyRatio()
    revision: int | None = None
    applied_at_ms: int | None = None
    applied_by: FreeText | None = None
    reason: FreeText | None = None
