"""fleet.v1: the nodes there are and where they sit."""

from __future__ import annotations

import enum

from heteroscale.contracts.message import AtMs, Count, Message
from heteroscale.contracts.names import FleetName, GpuTypeName, NodeName


class NodeState(enum.StrEnum):
    """Whether a node may take instances, and whether what it holds still runs."""

    READY = "ready"
    CORDONED = "cordoned"
    LOST = "lost"


class NodeAt(Message, frozen=True, kw_only=True):
    """A node's place; its identity is the whole path."""

    cluster: str
    s2: str
    s1: str
    s0: str | None = None


class FleetNode(Message, frozen=True, kw_only=True):
    """One node. `used`: GPUs held by what the inventory does not know."""

    node: NodeName
    fleet: FleetName
    gpu_type: GpuTypeName
    gpus: Count
    at: NodeAt
    state: NodeState = NodeState.READY
    used: Count = 0
    observed_at_ms: AtMs = 0

    def __post_init__(self) -> None:
        if self.used > self.gpus:
            raise ValueError(f"used {self.used} is not between 0 and its {self.gpus} GPUs; write the GPUs that others hold")
