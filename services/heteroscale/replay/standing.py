"""How a fleet stood at some moment, out of its records: nodes, newest placements, the commands they answer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.names import FleetName, NodeName, ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.topics import Topic
from heteroscale.placement.inventory.entries import ServiceEntry
from heteroscale.placement.nodes import NodeChange
from heteroscale.replay.recorded import Recorded


def services_of(recorded: Recorded, fleet: FleetName) -> list[ServiceName]:
    """All services that the fleet's placements name."""
    return sorted(recorded.store.column(Topic.PLACEMENTS, "DISTINCT name", "WHERE c = ?", (fleet,)))


def placement_until(recorded: Recorded, service: ServiceName, at_ms: int, offset: int = 2**62) -> Placement | None:
    """A service's last placement (no dry run) from before an instant and below an offset."""
    return next(
        (
            one.message
            for one in recorded.placements_back(service, offset)
            if not one.message.dry_run and one.message.seq is not None and one.message.at_ms < at_ms
        ),
        None,
    )


def nodes_at(recorded: Recorded, fleet: FleetName, at_ms: int) -> dict[NodeName, NodeChange]:
    """The newest record of each node up to an instant."""
    found: dict[NodeName, NodeChange] = {}
    for node, record in recorded.fleet(fleet):
        if record.timestamp_ms <= at_ms:
            value = None if record.value is None else codec.decode(FleetNode, record.value)
            found[node] = NodeChange(node=node, record=value, revision=record.offset)
    return found


def answered(recorded: Recorded, placements: Mapping[ServiceName, Placement]) -> dict[ServiceName, Command]:
    """The Command that each placement answers, at the first instant found."""
    found: dict[ServiceName, Command] = {}
    for service, placement in sorted(placements.items()):
        same = (one.message for one in recorded.commands_to(service, placement.revision))
        command = next((one for one in same if not one.dry_run and one.id == placement.command_id), None)
        if command is not None:
            found[service] = command
    return found


def as_of(recorded: Recorded, entry: ServiceEntry, placement: Placement) -> ServiceEntry:
    """The entry with the newest command that its placement had seen, and the first instant known of that revision."""
    mine = [
        one.message
        for one in recorded.commands_to(placement.service, placement.revision)
        if not one.message.dry_run and one.message.at_ms <= placement.at_ms and one.message.id == placement.command_id
    ]
    if not mine:
        return msgspec.structs.replace(entry, command=msgspec.structs.replace(entry.command, at_ms=0))
    newest = max(mine, key=lambda one: one.at_ms)
    return msgspec.structs.replace(entry, command=newest, first_at_ms=min(one.at_ms for one in mine))
