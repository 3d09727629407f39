"""The placement service's cycle called directly: the production fold, planner and inventory, with no log and no event loop between."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Broken
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.placements import Placement
from heteroscale.placement import reservation, state
from heteroscale.placement.fold import CycleInput
from heteroscale.placement.inventory.entries import FleetImage
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Build
from heteroscale.placement.nodes import NodeChange
from heteroscale.placement.state import FleetState

T = TypeVar("T")


@dataclass(slots=True)
class Site:
    """One fleet: its inventory, and the nodes as they were last said to be."""

    fleet: str
    inventory: MemoryInventory = field(default_factory=MemoryInventory)
    known: FleetState = field(init=False)
    revision: int = 0

    def __post_init__(self) -> None:
        fence = at_once(self.inventory.take_fence(self.fleet))
        image = FleetImage(gen=1, rev=0, cycle=0, now_ms=0, nodes={}, services={}, instances={})
        at_once(self.inventory.build(Build(fleet=self.fleet, fence=fence, old_gen=None, image=image)))
        read = at_once(self.inventory.read(self.fleet))
        self.known = state.from_image(self.fleet, fence, read if read is not None else image)

    def cycle(self, events: Sequence[Command | Actuation], nodes: Sequence[FleetNode]) -> list[Placement]:
        """One cycle on records and node states since the last; the Placements it gives, in order."""
        changes = {}
        for node in nodes:
            self.revision += 1
            changes[node.node] = NodeChange(node=node.node, record=node, revision=self.revision)
        ordered = sorted(events, key=lambda event: event.at_ms)
        given = CycleInput(ordered, self.known.cycle + 1, {})
        carried = at_once(reservation.carry_out(self.inventory, self.known, given, changes))
        self.known = carried.state
        waiting = at_once(self.inventory.outbox(self.fleet))
        at_once(self.inventory.acknowledge(self.fleet, [entry.entry for entry in waiting]))
        return [codec.decode(Placement, gang.payload) for gang, _ in carried.applied] + carried.answers


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never has to wait, as those of the inventory in memory."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    raise Broken("the inventory in memory was waited for")
