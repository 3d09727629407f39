"""decisions.v1: one record per window, holds included, with every stage that led to it."""

from __future__ import annotations

import enum

from heteroscale.contracts.message import Message
from heteroscale.contracts.names import DecisionId, FleetName, RoleName, ServiceName
from heteroscale.contracts.spec import Mode


class Action(enum.StrEnum):
    """What a decision does."""

    SCALE_OUT = "scale-out"
    SCALE_IN = "scale-in"
    RESTORE = "restore"
    FINALIZE = "finalize"
    HOLD = "hold"


class StageName(enum.StrEnum):
    """The stages of the law, in order."""

    RAW = "raw"
    GUARD = "guard"
    SCHEDULE = "schedule"
    BOUNDS = "bounds"
    RATE = "rate"
    STABILIZE = "stabilize"
    COOLDOWN = "cooldown"
    CAPACITY = "capacity"
    SOFT = "soft"
    FINAL = "final"


class Reason(enum.StrEnum):
    """Why a count moved or did not. Bounded, so safe as a metric label."""

    DEMAND = "demand"
    GUARD_MODERATE = "guard_moderate"
    GUARD_SEVERE = "guard_severe"
    SCHEDULE = "schedule"
    BOUNDS = "bounds"
    FALLBACK = "fallback"
    REPAIR = "repair"
    EXTERNAL_CHANGE = "external_change"
    GUARD = "guard"
    OBSERVED = "observed"
    STEADY = "steady"
    COLD_START = "cold_start"
    MISSING_DATA = "missing_data"
    GUARD_BLOCKS = "guard_blocks"
    GUARD_WAITS_FOR_PENDING = "guard_waits_for_pending"
    PENDING = "pending"
    AT_BOUND = "at_bound"
    SCHEDULE_FIXED = "schedule_fixed"
    RATE_LIMITED = "rate_limited"
    STABILIZING = "stabilizing"
    COOLDOWN = "cooldown"
    CAPACITY_LIMITED = "capacity_limited"
    OBSERVING = "observing"
    UNADOPTED = "unadopted"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    SPEC_CHANGED = "spec_changed"


class WindowSpan(Message, frozen=True, kw_only=True):
    """The window that was judged."""

    start_ms: int
    end_ms: int


class RoleBefore(Message, frozen=True, kw_only=True):
    """A role as the decision found it."""

    replicas: int
    draining: int = 0
    serving: int = 0
    pending: int = 0
    foreign: int = 0


class RoleAfter(Message, frozen=True, kw_only=True):
    """What the decision leaves commanded."""

    replicas: int
    draining: int = 0


class Stage(Message, frozen=True, kw_only=True):
    """The counts after one stage; a stage that changed nothing has reason null."""

    stage: StageName
    value: dict[RoleName, int]
    reason: Reason | None = None
    detail: str = ""


class Decision(Message, frozen=True, kw_only=True):
    """What was decided for one window, and why. `inputs` maps `topic-partition` to the next offset."""

    id: DecisionId
    service: ServiceName
    fleet: FleetName
    at_ms: int
    window: WindowSpan
    spec_revision: int | None
    policy_version: int
    mode: Mode
    before: dict[RoleName, RoleBefore]
    stages: list[Stage]
    action: Action
    reason: Reason
    after: dict[RoleName, RoleAfter]
    command_id: DecisionId | None
    inputs: dict[str, int] = {}
    state_digest: str = ""
