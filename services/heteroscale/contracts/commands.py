"""commands.v1: absolute targets of a service, self-contained for placement and actuators."""

from __future__ import annotations

from heteroscale.contracts.message import AtMs, Count, Message, Positive
from heteroscale.contracts.names import DecisionId, FleetName, GpuTypeName, InstanceName, NodeName, RoleName, ServiceName
from heteroscale.contracts.spec import Affinity, GpuChoice, Level, Partial, PartSpec, ReadyRatio, Spread


class CommandRole(Message, frozen=True, kw_only=True):
    """Target of one role: `replicas` in service, at most `draining` more on their way out."""

    replicas: Count
    draining: Count = 0
    gpus: Positive
    gpu_types: list[GpuChoice] = []
    parts: dict[str, PartSpec] | None = None
    within: Level | None = None

    def __post_init__(self) -> None:
        if not all(choice.weight > 0 for choice in self.gpu_types):
            raise ValueError("the weight of a GPU type is above 0")
        if not all(part.count > 0 and part.gpus > 0 for part in (self.parts or {}).values()):
            raise ValueError("a part has a count and gpus above 0")


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
    revision: Count
    service: ServiceName
    fleet: FleetName
    at_ms: AtMs
    decision_id: DecisionId
    priority: int = 100
    roles: dict[RoleName, CommandRole]
    ratio: dict[RoleName, int] | None = None
    affinity: Affinity | None = Affinity()
    prefer: Level | None = Level.S1
    wait_ms: Count = 0
    partial: Partial = Partial.WHOLE_UNITS
    spread: Spread = Spread.NONE
    ready_ratio: ReadyRatio = ReadyRatio()
    start_deadline_ms: Count = 900_000
    adopt: list[Adoption] | None = None
    dry_run: bool = False
