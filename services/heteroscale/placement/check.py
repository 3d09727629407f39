"""Does the inventory hold what it promises? All invariants that can be judged from its image, placements.v1 and fleet.v1. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from heteroscale.contracts.names import NodeName, ServiceName
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.placement import life, rebuild, record
from heteroscale.placement.inventory.entries import FleetImage, ServiceEntry, Standing, held_by_node
from heteroscale.placement.nodes import NodeChange
from heteroscale.placement.state import ServiceState


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """One broken promise: the invariant's name, where, and what was found."""

    invariant: str
    place: str
    found: str


def inventory(image: FleetImage) -> list[Violation]:
    """NO-LEAK, NO-OVERLAP, ONCE and whole references, from the inventory alone."""
    return [*_accounts(image), *_references(image), *_counts(image)]


def against_log(image: FleetImage, placements: Mapping[ServiceName, Placement], elsewhere: Collection[ServiceName] = ()) -> list[Violation]:
    """The newest Placement of every service says what the inventory holds. `elsewhere`: services whose newest is another fleet's."""
    found: list[Violation] = []
    for service in sorted((image.services.keys() | placements.keys()) - rebuild.departed(image, elsewhere)):
        entry, placement = image.services.get(service), placements.get(service)
        if entry is None or placement is None:
            where = "inventory" if entry is None else "placements.v1"
            found.append(_violation("SAME-ON-LOG", service, f"it is not in {where}"))
            continue
        here, there = (image.gen, entry.seq), (placement.gen, placement.seq)
        if here != there:
            found.append(_violation("SAME-ON-LOG", service, f"(gen, seq) is {here} in the inventory and {there} on placements.v1"))
            continue
        own = {name: one for name, one in image.instances.items() if one.service == service}
        if list(ServiceState(entry, own).groups) != placement.groups:
            found.append(_violation("SAME-ON-LOG", service, f"groups differ at (gen, seq) {here}"))
    return found


def against_fleet(image: FleetImage, records: Mapping[NodeName, NodeChange]) -> list[Violation]:
    """Every node of fleet.v1 is in the inventory as its newest record says, and no other node is."""
    found: list[Violation] = []
    for name in sorted(image.nodes.keys() | records.keys()):
        entry, change = image.nodes.get(name), records.get(name)
        present = change is not None and change.record is not None
        if entry is None:
            if present:
                found.append(_violation("SAME-FLEET", name, "it is on fleet.v1 and not in the inventory"))
        elif not present:
            if entry.standing is not Standing.REMOVED:
                found.append(_violation("SAME-FLEET", name, f"it is {entry.standing.value} in the inventory and not on fleet.v1"))
        elif change is not None and change.revision != entry.revision:
            found.append(_violation("SAME-FLEET", name, f"its record is {change.revision} on fleet.v1 and {entry.revision} here"))
    return found


def _accounts(image: FleetImage) -> Iterable[Violation]:
    held = held_by_node(image.instances)
    for name, node in sorted(image.nodes.items()):
        taken = held.get(name, 0)
        if node.free + taken + node.used != node.record.gpus:
            yield _violation("NO-LEAK", name, f"{node.record.gpus} GPUs, but free {node.free} + held {taken} + used {node.used}")
        if node.free < 0:
            yield _violation("NO-OVERLAP", name, f"free is {node.free}: more is promised than there is")
    for name in sorted(held.keys() - image.nodes.keys()):
        yield _violation("NO-LEAK", name, f"{held[name]} GPUs are held on a node that is not there")


def _references(image: FleetImage) -> Iterable[Violation]:
    for name, one in sorted(image.instances.items()):
        service = image.services.get(one.service)
        if service is None:
            yield _violation("WHOLE", name, f"its service {one.service} is not there")
        elif one.group not in service.groups:
            yield _violation("WHOLE", name, f"its group {one.group} is not there")
        if one.state is not InstanceState.FAILED and one.held != one.nodes:
            yield _violation("NO-LEAK", name, f"it is {one.state.value} on {one.nodes} and holds {one.held}")


def _counts(image: FleetImage) -> Iterable[Violation]:
    for service, entry in sorted(image.services.items()):
        own = [one for _, one in sorted(image.instances.items()) if one.service == service]
        running = record.counts([one for one in own if one.state in life.RUNNING])
        for role, count in sorted(running.items()):
            if count > _stated(entry, role):
                yield _violation("ONCE", service, f"{role}: {count} instances for a command of {_stated(entry, role)}")


def _stated(entry: ServiceEntry, role: str) -> int:
    target = entry.command.roles.get(role)
    return target.replicas if target is not None else 0


def _violation(invariant: str, place: str, found: str) -> Violation:
    return Violation(invariant=invariant, place=place, found=found)
