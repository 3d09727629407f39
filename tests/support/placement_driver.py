"""The placement service without log and Redis: cycles on the inventory in memory, one call a cycle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.commands import Adoption, Command, CommandRole
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.placements import InstanceState, PlacedInstance, Placement
from heteroscale.contracts.spec import GpuChoice
from heteroscale.placement import check, reservation, state
from heteroscale.placement.fold import CycleInput, Event
from heteroscale.placement.inventory.entries import FleetImage
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.nodes import NodeChange
from heteroscale.placement.reservation import Carried
from heteroscale.placement.state import FleetState
from support import builders
from support.gangs import built


class Driver:
    """One fleet. Every cycle ends with all invariants checked."""

    def __init__(self, *nodes: FleetNode) -> None:
        self.inventory = MemoryInventory()
        self.written: list[Placement] = []
        self.payloads: list[bytes] = []
        self.answers: list[Placement] = []
        self.revision = len(nodes)
        fence = asyncio.run(built(self.inventory, *nodes))
        self.state: FleetState = state.from_image("default", fence, self.image())

    def image(self) -> FleetImage:
        """What the inventory holds."""
        found = asyncio.run(self.inventory.read("default"))
        assert found is not None
        return found

    def cycle(self, *events: Event, nodes: Sequence[FleetNode] = (), gone: Iterable[str] = ()) -> Carried:
        """Carry one cycle out."""
        changes: dict[str, NodeChange] = {}
        for record in nodes:
            changes[record.node] = NodeChange(node=record.node, record=record, revision=self.revision)
            self.revision += 1
        for name in gone:
            changes[name] = NodeChange(node=name, record=None, revision=self.revision)
            self.revision += 1
        given = CycleInput(events, self.state.cycle + 1, {"commands.v1-0": self.state.cycle + 1})
        carried = asyncio.run(reservation.carry_out(self.inventory, self.state, given, changes))
        self.state = carried.state
        self.payloads += [gang.payload for gang, _ in carried.applied]
        self.written += [codec.decode(Placement, gang.payload) for gang, _ in carried.applied]
        self.answers += carried.answers
        image = self.image()
        assert [] == check.inventory(image)
        assert image.rev == self.state.rev
        assert image.nodes == self.state.nodes
        return carried

    def newest(self, service: str = "chat") -> Placement:
        """The service's newest Placement."""
        return [one for one in self.written if one.service == service][-1]

    def instances(self, service: str = "chat", *states: InstanceState) -> list[PlacedInstance]:
        """Its instances, in the given states (none given: all)."""
        found = [one for group in self.newest(service).groups for one in group.instances]
        return [one for one in found if not states or one.state in states]

    def acknowledge(self, kind: ActuationKind, *names: str, service: str = "chat") -> Carried:
        """Acknowledgements for these instances; without names for all."""
        wanted = names or tuple(one.id for one in self.instances(service))
        at_ms = self.state.now_ms
        return self.cycle(*(actuation(name, kind, service=service, at_ms=at_ms) for name in wanted))


def actuation(name: str, kind: ActuationKind, *, service: str = "chat", at_ms: int = builders.AT_MS) -> Actuation:
    """One acknowledgement."""
    return msgspec.structs.replace(builders.actuation(name, kind, at_ms=at_ms), service=service)


def command(
    prefill: int = 1,
    decode: int | None = None,
    *,
    service: str = "chat",
    revision: int = 1,
    after_ms: int = 0,
    draining: tuple[int, int] = (0, 0),
    adopt: Sequence[Adoption] | None = None,
    **changes: object,
) -> Command:
    """P and D on whole nodes at 1:2; `draining` is for prefill and decode."""
    choice = [GpuChoice(type="H20")]
    wanted = 2 * prefill if decode is None else decode
    roles = {
        "prefill": CommandRole(replicas=prefill, draining=draining[0], gpus=8, gpu_types=choice),
        "decode": CommandRole(replicas=wanted, draining=draining[1], gpus=8, gpu_types=choice),
    }
    base = builders.command(service, revision=revision, at_ms=builders.AT_MS + after_ms)
    return msgspec.structs.replace(
        base, roles=roles, ratio={"prefill": 1, "decode": 2}, adopt=list(adopt) if adopt is not None else None, **changes
    )
