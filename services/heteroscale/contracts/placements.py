"""placements.v1: a service's whole assignment, as placement reserved it."""

from __future__ import annotations

import enum

from heteroscale.contracts.message import AtMs, Count, Message
from heteroscale.contracts.names import DecisionId, FleetName, GpuTypeName, InstanceName, NodeName, RoleName, ServiceName


class PlacementStatus(enum.StrEnum):
    """How far the assignment is from the command."""

    CONVERGED = "converged"
    PROGRESSING = "progressing"
    PARTIAL = "partial"
    UNPLACED = "unplaced"


class Pool(enum.StrEnum):
    """How rare the hardware mix is; a placement has the worst class it touches."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class DegradedReason(enum.StrEnum):
    """Why a group is not what was asked for."""

    WIDER_THAN_PREFERRED = "wider_than_preferred"
    MOVED = "moved"
    NODE_LOST = "node_lost"


class InstanceState(enum.StrEnum):
    """An instance's life, as acknowledged."""

    RESERVED = "reserved"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


class Domain(Message, frozen=True, kw_only=True):
    """A place in the topology, by its whole path; null below the level meant."""

    cluster: str | None = None
    s2: str | None = None
    s1: str | None = None


class PlacedInstance(Message, frozen=True, kw_only=True):
    """One instance on its nodes. `routable` is the service-discovery verdict."""

    id: InstanceName
    role: RoleName
    part: str | None = None
    replica: int | None = None
    gpu_type: GpuTypeName
    nodes: dict[NodeName, int]
    state: InstanceState
    since_ms: AtMs
    routable: bool = False


class Group(Message, frozen=True, kw_only=True):
    """A Deployment Group: roles that share one domain."""

    id: str
    domain: Domain
    pool: Pool
    degraded: bool = False
    degraded_reason: DegradedReason | None = None
    instances: list[PlacedInstance]


class Change(Message, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One transition since the last record; `from` is null at birth, `to` is null when gone."""

    instance: InstanceName
    from_: InstanceState | None
    to: InstanceState | None
    reason: str


class Explain(Message, frozen=True, kw_only=True):
    """Why a request was placed as it was, in counts of instances."""

    best_domain: Domain | None = None
    needed: dict[RoleName, int] = {}
    available: dict[RoleName, int] = {}
    blocked_by: list[ServiceName] = []
    text: str = ""


class Conflict(Message, frozen=True, kw_only=True):
    """A gang that the inventory refused, and the node it named (null: another plan came first)."""

    gang: str
    node: NodeName | None = None


class PlacementInputs(Message, frozen=True, kw_only=True):
    """The cycle that wrote the record and what it had read: next offset per `topic-partition`."""

    cycle: int
    cut: dict[str, int] = {}
    conflicts: list[Conflict] = []


class Placement(Message, frozen=True, kw_only=True):
    """The whole assignment. (`gen`, `seq`) order the records of a service; a dry-run answer has seq null."""

    service: ServiceName
    fleet: FleetName
    revision: int
    command_id: DecisionId
    seq: Count | None
    gen: Count
    at_ms: AtMs
    status: PlacementStatus
    groups: list[Group] = []
    changes: list[Change] = []
    shortfall: dict[RoleName, int] = {}
    explain: Explain | None = None
    inputs: PlacementInputs | None = None
    dry_run: bool = False
