"""A gang: everything a cycle changes for one service, applied by one script, whole or not at all."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from heteroscale.contracts.names import DecisionId, FleetName, GangId, InstanceName, NodeName, ServiceName
from heteroscale.contracts.placements import InstanceState
from heteroscale.placement.inventory.entries import InstanceEntry, ServiceEntry


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an instance; `before` null at birth, `after` null when gone."""

    instance: InstanceName
    before: InstanceState | None
    after: InstanceState | None
    reason: str


class Gang(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal. `seq` is the service's sequence as the plan read it; the script gives it `seq + 1`.

    `takes`, `adopts` and `frees` are GPUs per node; adopting takes from what the fleet record calls used before it takes from
    what is free. `born` are those of `puts` that must not exist yet. `payload` is the Placement as it will stand on the log.
    """

    id: GangId
    fleet: FleetName
    service: ServiceName
    gen: int
    fence: int
    seq: int
    cycle: int
    state: ServiceEntry
    puts: Mapping[InstanceName, InstanceEntry]
    born: frozenset[InstanceName]
    drops: Sequence[InstanceName]
    takes: Mapping[NodeName, int]
    adopts: Mapping[NodeName, int]
    frees: Mapping[NodeName, int]
    at_ms: int
    payload: bytes


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """What a gang was planned on, and for: `command` is (id, revision, at_ms)."""

    service: ServiceName
    gen: int
    fence: int
    seq: int
    command: tuple[DecisionId, int, int]


def gang_id(basis: Basis, transitions: Sequence[Transition], payload: bytes) -> GangId:
    """sha256 of what the gang is about.

    The Placement's bytes and the fence are part of it: a proposal of another worker, planned on another view, must never be given
    this one's answer, for then it would publish a Placement that was not applied.
    """
    moves = sorted((move.instance, str(move.before), str(move.after)) for move in transitions)
    parts = [basis.service, str(basis.gen), str(basis.fence), str(basis.seq), *map(str, basis.command), *(":".join(move) for move in moves)]
    return GangId(hashlib.sha256("|".join(parts).encode() + b"|" + payload).hexdigest())


class Verdict(enum.StrEnum):
    """What the inventory said. The first word of the script's answer."""

    APPLIED = "APPLIED"
    CONFLICT = "CONFLICT"
    STALE = "STALE"
    NOT_READY = "NOT_READY"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one gang.

    APPLIED: `rev` of the inventory and `entry` in the out stream (also when the gang was applied before: the stored answer).
    CONFLICT: `node` names the node that could not give, null when another plan came first. STALE: `detail` is `fence` or `command`.
    """

    verdict: Verdict
    rev: int = 0
    entry: str = ""
    node: NodeName | None = None
    detail: str = ""
