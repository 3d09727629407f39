"""commands.v1: absolute targets of a service, self-contained for placement and actuators."""

from __future__ import annotations

from heteroscale.contracts.message import Message
from heteroscale.contracts.names import DecisionId, FleetName, GpuTypeName, InstanceName, NodeName, RoleName, ServiceName
from heteroscale.contracts.spec import Affinity, GpuChoice, Level, Partial, PartSpec, ReadyRatio, Spread


class CommandRole(Message, frozen=True, kw_only=True):
    """Target of one role: `replicas` in service, at most `draining` more on their way out."""

    replicas: int
    draining: int = 0
    gpus: int
    gpu_types: list[GpuChoice] = []
    parts: dict[str, PartSpec] | None = None
    within: Level | None = None


class Adoption(Message, frozen=True, kw_only=True):
    """A running instance that nobody reserved and that is to be brought in."""

    instance: InstanceName
    role: RoleName
    gpu_type: GpuTypeName
    nodes: dict[NodeName, int]
    group: str | None = None


class Command(Message, frozen=True, kw_only=True):
    """`id` is the decision that last changed it; an affirmation repeats id and revision with a newer at_ms."""

    id: DecisionId
    revision: int
    service: ServiceName
    fleet: FleetName
    at_ms: int
    decision_id: DecisionId
    priority: int = 100
    roles: dict[RoleName, CommandRole]
    ratio: dict[RoleName, int] | None = None
    affinity: Affinity | None = Affinity()
    prefer: Level | None = Level.S1
    wait_ms: int = 0
    partial: Partial = Partial.WHOLE_UNITS
    spread: Spread = Spread.NONE
    ready_ratio: ReadyRatio = ReadyRatio()
    start_deadline_ms: int = 900_000
    adopt: list[Adoption] | None = None
    dry_run: bool = False
