"""Nodes as the fleet topic says: standing, accounts, quarantine, removal. Pure.

Accounts hold by construction: `gpus = free + held + used`, where held is what instances take and used is what nobody here knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from heteroscale.contracts.fleet import FleetNode, NodeState
from heteroscale.contracts.names import NodeName
from heteroscale.contracts.placements import InstanceState
from heteroscale.placement.inventory.entries import InstanceEntry, NodeEntry, Quarantine, Standing

FOLLOWED: Final = {NodeState.READY: Standing.READY, NodeState.CORDONED: Standing.CORDONED, NodeState.LOST: Standing.LOST}


class NodeChange(msgspec.Struct, frozen=True, kw_only=True):
    """A record of fleet.v1: `record` null is a tombstone, `revision` its offset."""

    node: NodeName
    record: FleetNode | None
    revision: int


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes to write and nodes to forget. `moved`: those that hold something and now sit elsewhere."""

    nodes: Mapping[NodeName, NodeEntry]
    gone: tuple[NodeName, ...]
    moved: frozenset[NodeName]

    def __bool__(self) -> bool:
        return bool(self.nodes or self.gone)


def held(entry: NodeEntry) -> int:
    """GPUs that instances hold on a node."""
    return entry.record.gpus - entry.free - entry.used


def settle(nodes: Mapping[NodeName, NodeEntry], changes: Iterable[NodeChange], instances: Collection[InstanceEntry]) -> Settled:
    """Nodes after fleet records and after what was acknowledged since; empty when nothing differs.

    A node back from lost takes nothing until every instance that failed with it was acknowledged; a removed one is kept, taking
    nothing, until it is empty. Records that were already included (revision not above the node's) change nothing.
    """
    after: dict[NodeName, NodeEntry] = {}
    moved: set[NodeName] = set()
    failed = _nodes_of(entry for entry in instances if entry.state is InstanceState.FAILED and entry.cause is not None)
    occupied = _nodes_of(instances)
    gone: set[NodeName] = set()
    for change in changes:
        entry = after.get(change.node, nodes.get(change.node))
        if entry is not None and change.revision <= entry.revision:
            continue
        if change.record is not None:
            gone.discard(change.node)
            fresh = _followed(entry, change.record, change.revision, failed)
            if entry is not None and entry.record.at != change.record.at and change.node in occupied:
                moved.add(change.node)
            after[change.node] = fresh
        elif entry is not None:
            after[change.node] = msgspec.structs.replace(entry, revision=change.revision, standing=Standing.REMOVED, quarantine=None)
    for name, entry in nodes.items():
        if name not in after and entry.standing in (Standing.QUARANTINED, Standing.REMOVED):
            after[name] = entry
    for name, entry in sorted(after.items()):
        lifted = _lifted(name, entry, failed)
        if lifted.standing is Standing.REMOVED and name not in occupied:
            gone.add(name)
        after[name] = lifted
    changed = {name: entry for name, entry in after.items() if name not in gone and nodes.get(name) != entry}
    return Settled(nodes=changed, gone=tuple(sorted(gone & nodes.keys())), moved=frozenset(moved))


def unsettled(entries: Iterable[NodeEntry]) -> bool:
    """Whether some node waits for acknowledgements or for being empty."""
    return any(entry.standing in (Standing.QUARANTINED, Standing.REMOVED) for entry in entries)


def quarantined(entry: NodeEntry, why: Quarantine) -> NodeEntry:
    """The node takes nothing until the reason is gone; a node that takes nothing anyway stays as it is."""
    if entry.standing is not Standing.READY:
        return entry
    return msgspec.structs.replace(entry, standing=Standing.QUARANTINED, quarantine=why)


def _followed(entry: NodeEntry | None, record: FleetNode, revision: int, failed: Collection[NodeName]) -> NodeEntry:
    """The entry after a record. What was adopted out of `used` since the last record is not counted as used again."""
    standing, why = FOLLOWED[record.state], None
    if entry is None:
        return NodeEntry(record=record, revision=revision, standing=standing, free=record.gpus - record.used, used=record.used)
    used = max(0, entry.used + record.used - entry.record.used)
    if standing is Standing.READY and record.node in failed:
        standing, why = Standing.QUARANTINED, Quarantine.BACK_FROM_LOST
    elif standing is Standing.READY and entry.standing is Standing.QUARANTINED and entry.record.state is NodeState.READY:
        standing, why = entry.standing, entry.quarantine  # another `ready` says nothing new; cordon and uncordon lifts it
    free = record.gpus - held(entry) - used
    return NodeEntry(record=record, revision=revision, standing=standing, free=free, used=used, quarantine=why)


def _lifted(name: NodeName, entry: NodeEntry, failed: Collection[NodeName]) -> NodeEntry:
    by_acknowledgement = entry.quarantine in (Quarantine.BACK_FROM_LOST, Quarantine.DISAGREES)
    if entry.standing is Standing.QUARANTINED and by_acknowledgement and name not in failed:
        return msgspec.structs.replace(entry, standing=FOLLOWED[entry.record.state], quarantine=None)
    return entry


def _nodes_of(instances: Iterable[InstanceEntry]) -> frozenset[NodeName]:
    return frozenset(node for entry in instances for node in entry.nodes)
