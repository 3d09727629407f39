"""An instance's life: what an acknowledgement, an order, a deadline or a lost node makes of it. Pure.

    reserved → starting → ready → draining → stopping → gone        draining → ready (restored)
    any → failed (acknowledged, or its node lost) → gone

GPUs come back with `stopped` or `failed` (no process is left), or when their node has been lost for the lease.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Final

import msgspec

from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.names import InstanceName, NodeName
from heteroscale.contracts.placements import InstanceState
from heteroscale.placement.inventory.entries import Cause, InstanceEntry

NODE_LEASE_MS: Final = 300_000

STARTED: Final = frozenset({InstanceState.RESERVED, InstanceState.STARTING})
RUNNING: Final = frozenset({*STARTED, InstanceState.READY})
COUNTED: Final = frozenset({*RUNNING, InstanceState.DRAINING})


class Why(enum.StrEnum):
    """Reasons of changes, as they stand in Placement.changes."""

    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"
    STOPPED = "stopped"
    STOPPED_UNASKED = "stopped_unasked"
    OVERDUE = "start_deadline"
    NODE_LOST = "node_lost"
    LEASE_EXPIRED = "node_lease"
    ADOPTED = "adopted"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One move. `after` null: gone. What `before` holds and `after` does not is free again."""

    instance: InstanceName
    before: InstanceEntry
    after: InstanceEntry | None
    why: Why

    @property
    def freed(self) -> dict[NodeName, int]:
        """GPUs given back, per node."""
        kept = self.after.held if self.after is not None else {}
        return {node: gpus for node, gpus in self.before.held.items() if node not in kept}


def acknowledge(name: InstanceName, entry: InstanceEntry, kind: ActuationKind, now_ms: int) -> Step | None:
    """What an acknowledgement changes; null for one that is late or repeated (they only move forward)."""
    match kind:
        case ActuationKind.STARTING:
            return _moved(name, entry, InstanceState.STARTING, now_ms) if entry.state is InstanceState.RESERVED else None
        case ActuationKind.READY:
            return _moved(name, entry, InstanceState.READY, now_ms) if entry.state in STARTED else None
        case ActuationKind.FAILED:
            return _ended(name, entry, now_ms, Why.FAILED)
        case ActuationKind.STOPPED if entry.state is InstanceState.FAILED:
            return _ended(name, entry, now_ms, Why.STOPPED)
        case ActuationKind.STOPPED:
            why = Why.STOPPED_UNASKED if entry.state in RUNNING else Why.STOPPED
            return Step(instance=name, before=entry, after=None, why=why)


def overdue(name: InstanceName, entry: InstanceEntry, start_deadline_ms: int, now_ms: int, known: Collection[InstanceName]) -> Step | None:
    """An instance that did not start in time is told to stop; a replacement waits until what it replaces is known to be gone."""
    if entry.state not in STARTED or now_ms - entry.reserved_ms < start_deadline_ms:
        return None
    if entry.replaces is not None and entry.replaces in known:
        return None
    after = msgspec.structs.replace(entry, state=InstanceState.STOPPING, since_ms=now_ms, routable=False, cause=Cause.OVERDUE)
    return Step(instance=name, before=entry, after=after, why=Why.OVERDUE)


def lose_node(name: InstanceName, entry: InstanceEntry, lost: Collection[NodeName], now_ms: int) -> Step | None:
    """An instance with a node among `lost` has failed; what it holds stays held."""
    if entry.state is InstanceState.FAILED or not any(node in lost for node in entry.nodes):
        return None
    after = msgspec.structs.replace(entry, state=InstanceState.FAILED, since_ms=now_ms, routable=False, cause=Cause.NODE_LOST)
    return Step(instance=name, before=entry, after=after, why=Why.NODE_LOST)


def expire(name: InstanceName, entry: InstanceEntry, lost: Collection[NodeName], now_ms: int) -> Step | None:
    """A failed instance gives back what it holds on nodes that have been lost for the lease."""
    if entry.state is not InstanceState.FAILED or now_ms - entry.since_ms < NODE_LEASE_MS:
        return None
    kept = {node: gpus for node, gpus in entry.held.items() if node not in lost}
    if len(kept) == len(entry.held):
        return None
    return Step(instance=name, before=entry, after=msgspec.structs.replace(entry, held=kept), why=Why.LEASE_EXPIRED)


def _ended(name: InstanceName, entry: InstanceEntry, now_ms: int, why: Why) -> Step | None:
    """Failed and known to hold nothing any more. It stays listed until the planner has seen what it leaves behind."""
    if entry.state is InstanceState.FAILED and entry.cause is None:
        return None
    since_ms = entry.since_ms if entry.state is InstanceState.FAILED else now_ms
    after = msgspec.structs.replace(entry, state=InstanceState.FAILED, since_ms=since_ms, routable=False, held={}, cause=None)
    return Step(instance=name, before=entry, after=after, why=why)


def _moved(name: InstanceName, entry: InstanceEntry, to: InstanceState, now_ms: int) -> Step:
    after = msgspec.structs.replace(entry, state=to, since_ms=now_ms)
    return Step(instance=name, before=entry, after=after, why=Why.ACKNOWLEDGED)
