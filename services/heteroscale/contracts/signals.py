"""signals.v1: one window of one service."""

from __future__ import annotations

from heteroscale.contracts.message import AtMs, Count, Message, Rate
from heteroscale.contracts.names import GpuTypeName, RoleName, ServiceName


class InstanceCounts(Message, frozen=True, kw_only=True):
    """Instances by their last state at the window's end."""

    loading: Count = 0
    serving: Count = 0
    draining: Count = 0
    silent: Count = 0


class GpuTypeSignal(Message, frozen=True, kw_only=True):
    """The part of a role that runs on one GPU type. Rates in tokens/s."""

    serving: Count
    decode_tps: Rate | None
    prefill_tps: Rate | None


class Quantiles(Message, frozen=True, kw_only=True):
    """Latency quantiles in milliseconds from merged bucket differences."""

    p50: float
    p90: float
    p95: float
    p99: float
    count: int
    saturated: bool = False
    approximate: bool = False


class RoleSignal(Message, frozen=True, kw_only=True):
    """What one role did in the window. Rates are sums in tokens/s; utilisations are means in 0..1; null is unknown."""

    instances: InstanceCounts
    coverage: float | None = None
    decode_tps: Rate | None = None
    prefill_tps: Rate | None = None
    prefill_missed_tps: Rate | None = None
    by_gpu_type: dict[GpuTypeName, GpuTypeSignal] = {}
    gpu_util: float | None = None
    sm_active: float | None = None
    kv_usage: float | None = None
    running: float | None = None
    waiting: float | None = None
    ttft_ms: Quantiles | None = None
    tbt_ms: Quantiles | None = None


class WindowInputs(Message, frozen=True, kw_only=True):
    """Where the window came from: lowest contributing offset (null: none) and the tick that closed it."""

    partition: int
    first_offset: int | None
    last_offset: int


class SignalWindow(Message, frozen=True, kw_only=True):
    """[start_ms, end_ms) of one service."""

    service: ServiceName
    start_ms: AtMs
    end_ms: AtMs
    spec_revision: int | None = None
    roles: dict[RoleName, RoleSignal]
    late_samples: Count = 0
    inputs: WindowInputs | None = None

    def __post_init__(self) -> None:
        if self.end_ms <= self.start_ms:
            raise ValueError(f"a window from {self.start_ms} to {self.end_ms} is empty")
