"""The inventory as the service sees it. Every call is bounded in time; Retryable when the store is away, Broken when it is damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from heteroscale.contracts.names import FleetName, NodeName, ServiceName
from heteroscale.placement.inventory.entries import FleetImage, NodeEntry
from heteroscale.placement.inventory.gang import Gang, Outcome


class OutEntry(NamedTuple):
    """A Placement that is true and perhaps not yet on the log; `entry` orders it."""

    entry: str
    service: ServiceName
    payload: bytes


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """A rebuilt inventory to be switched in. `image.gen` is the new generation, `old_gen` the one that must still be in place."""

    fleet: FleetName
    fence: int
    old_gen: int | None
    image: FleetImage
    placements: Sequence[tuple[ServiceName, bytes]] = ()


class NodeSync(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes as they are to stand from now on (whole entries) and nodes to forget, on the state read at `rev`."""

    fleet: FleetName
    gen: int
    fence: int
    rev: int
    nodes: Mapping[NodeName, NodeEntry]
    gone: Sequence[NodeName] = ()


class Inventory(Protocol):
    """Reservations of all fleets. Only `apply`, `sync` and `build` change them, and each checks before it writes."""

    async def take_fence(self, fleet: FleetName) -> int:
        """A number above all given before; writers with a lower one are refused from now on."""
        ...

    async def read(self, fleet: FleetName) -> FleetImage | None:
        """Everything, in one moment; null when the inventory was never built or is lost."""
        ...

    async def stamp(self, fleet: FleetName) -> tuple[int, int] | None:
        """(gen, rev), which every write raises; null when the inventory was never built or is lost."""
        ...

    async def build(self, build: Build) -> Outcome:
        """Replace everything. NOT_READY unless the fence is the newest and the old generation still stands."""
        ...

    async def sync(self, sync: NodeSync) -> Outcome:
        """Write nodes. CONFLICT when anything changed since `rev`."""
        ...

    async def apply(self, gangs: Sequence[Gang]) -> list[Outcome]:
        """Each gang on its own, in order, sent together. A lost reply is looked up, never taken for a failure."""
        ...

    async def outbox(self, fleet: FleetName, entries_max: int = 1_000) -> list[OutEntry]:
        """The oldest Placements that were not acknowledged."""
        ...

    async def acknowledge(self, fleet: FleetName, entries: Sequence[str]) -> None:
        """These are on the log."""
        ...

    async def lease(self, fleet: FleetName, holder: str, ttl_ms: int) -> str:
        """Say who plans now, if nobody does; returns the holder. Advisory: it saves work and protects nothing."""
        ...

    async def ping(self) -> None:
        """Whether the store answers. Raises Retryable."""
        ...

    async def warnings(self) -> list[str]:
        """What in the store's configuration weakens the guarantees, in words for a person."""
        ...

    async def close(self) -> None:
        """Let go; bounded in time."""
        ...
