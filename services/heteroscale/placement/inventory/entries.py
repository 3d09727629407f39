"""What the inventory holds of a fleet: nodes, services, groups, instances. Plain values, JSON in Redis.

Accounts per node, always: `gpus = free + held + used`, where held is the sum over instances of `held`, and used is what the
inventory does not know (as the fleet record says, less what was adopted since).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Broken, Rejected
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.message import Message
from heteroscale.contracts.names import DecisionId, GpuTypeName, InstanceName, NodeName, RoleName, ServiceName
from heteroscale.contracts.placements import DegradedReason, Domain, InstanceState, Pool


class Standing(enum.StrEnum):
    """What a node may do. Only a ready one takes instances; the others keep what they hold."""

    READY = "ready"
    CORDONED = "cordoned"
    LOST = "lost"
    QUARANTINED = "quarantined"
    REMOVED = "removed"


class Quarantine(enum.StrEnum):
    """Why a node takes nothing although its fleet record says ready."""

    BACK_FROM_LOST = "back_from_lost"
    ADOPTION_CONFLICT = "adoption_conflict"
    DISAGREES = "disagrees"


class Cause(enum.StrEnum):
    """Why an instance is in a state that its command alone does not explain."""

    OVERDUE = "overdue"
    NODE_LOST = "node_lost"
    GHOST = "ghost"


class Unreadable(Broken):
    """Somebody else wrote into the inventory: an entry is not of the form that it has here."""


class NodeEntry(Message, frozen=True, kw_only=True):
    """One node: its fleet record (`revision` = that record's offset), its standing and its accounts in GPUs."""

    record: FleetNode
    revision: int
    standing: Standing
    free: int
    used: int = 0
    quarantine: Quarantine | None = None


class InstanceEntry(Message, frozen=True, kw_only=True):
    """One instance. `nodes` is where it is, `held` what it still takes from them (empty once given back).

    `since_ms`: in this state since; `reserved_ms`: reserved at, which the start deadline counts from. `replaces`: the overdue
    instance it stands in for. `replacement`: it was placed because a peer failed.
    """

    service: ServiceName
    group: str
    role: RoleName
    part: str | None = None
    replica: int | None = None
    gpu_type: GpuTypeName
    nodes: dict[NodeName, int]
    held: dict[NodeName, int]
    state: InstanceState
    since_ms: int
    reserved_ms: int
    command: DecisionId
    routable: bool = False
    cause: Cause | None = None
    replaces: InstanceName | None = None
    replacement: bool = False


class GroupEntry(Message, frozen=True, kw_only=True):
    """What a group keeps beside its instances: the domain it was born in and what became of it."""

    domain: Domain
    pool: Pool
    degraded: bool = False
    degraded_reason: DegradedReason | None = None


class ServiceEntry(Message, frozen=True, kw_only=True):
    """A service's newest command, whole, and the state of carrying it out.

    `first_at_ms`: when its revision was first seen. `withdrawn`: instances per role that a person stopped under this revision.
    `shortfall`: instances per role that are asked for and not placed.
    """

    seq: int
    command: Command
    first_at_ms: int
    groups: dict[str, GroupEntry] = msgspec.field(default_factory=dict)
    withdrawn: dict[RoleName, int] = msgspec.field(default_factory=dict)
    shortfall: dict[RoleName, int] = msgspec.field(default_factory=dict)


class NodeRecord(Message, frozen=True, kw_only=True):
    """The value of a node in `{hs:FLEET}:fleet`: the fleet record the accounts are based on, and why it is quarantined."""

    record: FleetNode
    quarantine: Quarantine | None = None


class FleetImage(msgspec.Struct, frozen=True, kw_only=True):
    """All that the inventory holds of a fleet, as read in one moment.

    `run`: the run of the server that this generation was built on, `server`: the one that answered; empty where unknown.
    """

    gen: int
    rev: int
    cycle: int
    now_ms: int
    nodes: Mapping[NodeName, NodeEntry]
    services: Mapping[ServiceName, ServiceEntry]
    instances: Mapping[InstanceName, InstanceEntry]
    run: str = ""
    server: str = ""

    @property
    def restarted(self) -> bool:
        """Whether the server started anew (or another one took its place) since this generation was built."""
        return bool(self.run and self.server) and self.run != self.server


E = TypeVar("E", InstanceEntry, ServiceEntry, NodeRecord)
SEPARATOR: Final = "|"
_STANDINGS: Final = {standing.value: standing for standing in Standing}


def node_text(free: int, standing: Standing, revision: int) -> str:
    """The value of a node in `{hs:FLEET}:node`: `free|state|revision of the fleet record`."""
    return f"{free}{SEPARATOR}{standing.value}{SEPARATOR}{revision}"


def node_parts(name: NodeName, text: str) -> tuple[int, Standing, int]:
    """Back from `node_text`. Raises Unreadable for anything else."""
    try:
        free, standing, revision = text.split(SEPARATOR)
        return int(free), _STANDINGS[standing], int(revision)
    except (KeyError, ValueError) as error:
        raise Unreadable(f"node {name} reads {text!r}, not free|state|revision") from error


def whole_number(name: str, text: str) -> int:
    """A number as scripts keep it. Raises Unreadable for anything else."""
    try:
        return int(text)
    except ValueError as error:
        raise Unreadable(f"{name} reads {text!r}, not a whole number") from error


def decoded(kind: type[E], payloads: Mapping[str, str]) -> dict[str, E]:
    """Entries of one kind from their JSON, by name; all in one pass. Raises Unreadable with the name of one that cannot be read."""
    try:
        found = codec.decoder(list[kind]).decode(f"[{','.join(payloads.values())}]")  # type: ignore[valid-type] # a type made at run time
        return dict(zip(payloads, found, strict=True))
    except (msgspec.DecodeError, ValueError):
        return {name: _decoded(kind, name, payload) for name, payload in payloads.items()}


def _decoded(kind: type[E], name: str, payload: str) -> E:
    try:
        return codec.decode(kind, payload)
    except Rejected as error:
        raise Unreadable(f"{name} is no {kind.__name__}: {error}") from error


def held_by_node(instances: Mapping[InstanceName, InstanceEntry]) -> dict[NodeName, int]:
    """GPUs held per node."""
    held: dict[NodeName, int] = {}
    for instance in instances.values():
        for node, gpus in instance.held.items():
            held[node] = held.get(node, 0) + gpus
    return held
