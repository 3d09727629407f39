"""Small fleets and hand-made gangs, for tests of the inventory without a planner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.contracts.placements import Domain, InstanceState, Pool
from heteroscale.placement.inventory.entries import FleetImage, GroupEntry, InstanceEntry, NodeEntry, ServiceEntry, Standing
from heteroscale.placement.inventory.gang import Basis, Gang, Transition, gang_id
from heteroscale.placement.inventory.protocol import Build, Inventory
from support import builders

GROUP = GroupEntry(domain=Domain(cluster="c1", s2="A"), pool=Pool.LOW)


def node(name: str = "n1", *, fleet: str = "default", gpus: int = 8, used: int = 0, state: NodeState = NodeState.READY) -> FleetNode:
    """A node of the one mini-pod."""
    at = NodeAt(cluster="c1", s2="A", s1="a1")
    return FleetNode(node=name, fleet=fleet, gpu_type="H20", gpus=gpus, at=at, state=state, used=used)


def node_entry(record: FleetNode, revision: int = 0) -> NodeEntry:
    """A node that holds nothing."""
    standing = Standing(record.state.value)
    return NodeEntry(record=record, revision=revision, standing=standing, free=record.gpus - record.used, used=record.used)


def image(*records: FleetNode, gen: int = 1) -> FleetImage:
    """An inventory without reservations."""
    nodes = {record.node: node_entry(record, revision) for revision, record in enumerate(records)}
    return FleetImage(gen=gen, rev=0, cycle=0, now_ms=0, nodes=nodes, services={}, instances={})


async def built(inventory: Inventory, *records: FleetNode, fleet: str = "default", gen: int = 1, old_gen: int | None = None) -> int:
    """Build a fleet; the fence."""
    fence = await inventory.take_fence(fleet)
    await inventory.build(Build(fleet=fleet, fence=fence, old_gen=old_gen, image=image(*records, gen=gen)))
    return fence


def instance(nodes: Mapping[str, int], *, service: str = "chat", state: InstanceState = InstanceState.RESERVED) -> InstanceEntry:
    """An instance that holds all of its nodes."""
    return InstanceEntry(
        service=service,
        group="g1",
        role="decode",
        gpu_type="H20",
        nodes=dict(nodes),
        held=dict(nodes),
        state=state,
        since_ms=1,
        reserved_ms=1,
        command=builders.command().id,
    )


class Proposer:
    """Makes gangs for one service as a worker would: it knows the fence, the generation and the sequence it has read."""

    def __init__(self, fleet: str, fence: int, *, service: str = "chat", gen: int = 1) -> None:
        self.fleet = fleet
        self.fence = fence
        self.gen = gen
        self.service = service
        self.seq = 0
        self.command = msgspec.structs.replace(builders.command(service), fleet=fleet)

    def gang(
        self,
        takes: Mapping[str, Mapping[str, int]] | None = None,
        drops: Sequence[tuple[str, InstanceEntry]] = (),
        *,
        adopts: Mapping[str, Mapping[str, int]] | None = None,
        command: Command | None = None,
    ) -> Gang:
        """Reserve `takes` (instance → GPUs per node), adopt `adopts`, let go of `drops`."""
        obeyed = command or self.command
        puts = {name: instance(nodes, service=self.service) for name, nodes in {**(takes or {}), **(adopts or {})}.items()}
        moves = [Transition(instance=name, before=None, after=InstanceState.RESERVED, reason="test") for name in puts]
        moves += [Transition(instance=name, before=entry.state, after=None, reason="test") for name, entry in drops]
        state = ServiceEntry(seq=self.seq + 1, command=obeyed, first_at_ms=obeyed.at_ms, groups={"g1": GROUP})
        payload = codec.encode(builders.placement(self.service, seq=self.seq + 1, gen=self.gen, at_ms=obeyed.at_ms))
        basis = Basis(
            service=self.service,
            gen=self.gen,
            fence=self.fence,
            seq=self.seq,
            command=(obeyed.id, obeyed.revision, obeyed.at_ms),
        )
        return Gang(
            id=gang_id(basis, moves, payload),
            fleet=self.fleet,
            service=self.service,
            gen=self.gen,
            fence=self.fence,
            seq=self.seq,
            cycle=1,
            state=state,
            puts=puts,
            born=frozenset(puts),
            drops=[name for name, _ in drops],
            takes=summed((takes or {}).values()),
            adopts=summed((adopts or {}).values()),
            frees=summed(entry.held for _, entry in drops),
            at_ms=obeyed.at_ms,
            payload=payload,
        )


def summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """GPUs per node over several instances."""
    total: dict[str, int] = {}
    for part in parts:
        for name, gpus in part.items():
            total[name] = total.get(name, 0) + gpus
    return total
