"""The GPUs of one cycle: what each node still gives, and how many instances of a size each s1 can hold.

Virtual allocation happens here: `take` makes GPUs vanish for all later requests of the cycle, `give` undoes a trial.
Vectors are int64 over the s1 domains. They are counted at the first question and kept true with every node that changes,
so whoever holds one sees it change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.placements import Group
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.memo import Rule
from heteroscale.placement.planning.signature import Signatures
from heteroscale.placement.planning.topology import READY, S1, Topology

Vector: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

RANK_BITS = 40
POOL_BITS = 36
"""A bound of the cost of an s1 as one number: instances on less preferred types, pool class, free GPUs."""

_DOMAIN_BITS = 40
"""Above the slots of any s1."""


class Condition(NamedTuple):
    """A domain holds the needs only if `slots` summed over its s1 is at least `need`; one slot is `gpus`."""

    slots: Vector
    need: int
    gpus: int


@dataclass(slots=True)
class _Table:
    """Slots of one size on one type, per s1. `views`: they, and the sums over several types that they are part of, element by element."""

    size: int
    slots: Vector
    views: list[memoryview]


class Ledger:
    """Free GPUs on ready nodes and what follows from them. `free` and `bound` are per s1."""

    def __init__(self, topology: Topology, free: npt.NDArray[np.int16], state: npt.NDArray[np.int8]) -> None:
        self.topology = topology
        self.lists = topology.lists
        self.pools = len(topology.pool)
        self.pool_worst = max(self.lists.pool, default=0)
        self.avail: Vector = np.where(state == READY, free, 0).astype(np.int64)
        self.free: Vector = self._per_s1(self.avail)
        self.bound: Vector = (topology.pool.astype(np.int64) << POOL_BITS) + self.free
        self.signatures = Signatures(topology, state)
        self._avail, self._free, self._bound = self.avail.data, self.free.data, self.bound.data
        self._starts = {level: np.array(starts[:-1], dtype=np.int64) for level, starts in self.lists.starts.items()}
        self._domain = {
            level: np.repeat(np.arange(len(starts)), np.diff(starts, append=self.pools)) for level, starts in self._starts.items()
        }
        self.conditions: dict[tuple[Rule, ...], list[Condition]] = {}
        """Conditions that were asked for, by their rules: their vectors stay true."""
        self._up_to: dict[int, Mask] = {}
        self._tables: list[dict[int, _Table]] = [{} for _ in topology.types]
        self._unions: dict[tuple[frozenset[int], int], Vector] = {}
        self._full: dict[tuple[int, int], Vector] = {}

    def remember(self, assignments: Mapping[ServiceName, tuple[Group, ...]], services: Iterable[ServiceName]) -> None:
        """Tell ties apart by who sits where, for the services of this cycle."""
        self.signatures.occupy(assignments, services)

    def range_of(self, level: Level, number: int) -> tuple[int, int]:
        """The s1 numbers of a domain, first and one past the last."""
        starts = self.lists.starts[level]
        return starts[number], starts[number + 1]

    def nodes_of(self, s1: int) -> tuple[int, int]:
        """The nodes of an s1, first and one past the last."""
        return self.lists.first[s1], self.lists.first[s1 + 1]

    def free_of(self, s1: int) -> int:
        """Free GPUs of an s1."""
        free: int = self._free[s1]
        return free

    def free_in(self, first: int, last: int) -> list[int]:
        """Free GPUs of a range of nodes."""
        return self._avail[first:last].tolist()

    def up_to_pool(self, worst: int) -> Mask | None:
        """The s1 of this pool class or better; None for all."""
        if worst >= self.pool_worst:
            return None
        if worst not in self._up_to:
            self._up_to[worst] = self.topology.pool <= worst
        return self._up_to[worst]

    def sizes(self, gpu_type: int) -> list[int]:
        """GPUs a node of this type may have, ascending."""
        return self.lists.sizes[gpu_type]

    def effective(self, gpu_type: int, gpus: int) -> int:
        """GPUs that an instance really takes: whole nodes once it is larger than every node of the type."""
        sizes = self.lists.sizes[gpu_type]
        if not sizes or gpus <= sizes[-1]:
            return gpus
        return min(-(-gpus // size) * size for size in sizes)

    def slots(self, gpu_type: int, gpus: int) -> Vector:
        """Instances of `gpus` on this type that each s1 holds, were it given to them alone."""
        return self._table(gpu_type, gpus).slots

    def slots_over(self, types: frozenset[int], gpus: int) -> Vector:
        """The same summed over several types."""
        if len(types) == 1:
            return self.slots(next(iter(types)), gpus)
        union = self._unions.get((types, gpus))
        if union is None:
            tables = [self._table(code, gpus) for code in sorted(types)]
            union = self._unions[types, gpus] = np.add.reduce([table.slots for table in tables])
            for table in tables:
                table.views.append(union.data)
        return union

    def over(self, level: Level, vector: Vector) -> Vector:
        """Sum a vector over the s1 of each domain of a level."""
        if level is S1:
            return vector
        return np.add.reduceat(vector, self._starts[level]) if len(vector) else vector

    def fewest(self, level: Level, vector: Vector, need: int) -> Vector:
        """In each domain of a level, how many of its s1 it takes at least to make up the need."""
        starts, domain = self._starts[level], self._domain[level]
        falling = (domain << _DOMAIN_BITS) - np.sort((domain << _DOMAIN_BITS) - vector)
        reached = np.cumsum(falling)
        before = reached[starts] - falling[starts]
        short: Vector = np.add.reduceat(reached - before[domain] < need, starts, dtype=np.int64)
        return short + 1

    def take(self, nodes: Mapping[int, int]) -> None:
        """GPUs per node that are gone for the rest of the cycle."""
        for node, gpus in nodes.items():
            self._change(node, -gpus)

    def give(self, nodes: Mapping[int, int]) -> None:
        """Undo a take."""
        for node, gpus in nodes.items():
            self._change(node, gpus)

    def gained(self, types: frozenset[int], size: int, nodes: Mapping[int, int]) -> int:
        """Slots more on these types, were these GPUs given back."""
        found = 0
        turned: dict[tuple[int, int], int] = {}
        lists, avail = self.lists, self._avail
        for node, more in nodes.items():
            gpu_type, gpus = lists.type[node], lists.gpus[node]
            if gpu_type in types:
                before: int = avail[node]
                if size <= gpus:
                    found += (before + more) // size - before // size
                elif before + more == gpus:
                    spot = lists.s1[node], gpu_type
                    each = -(-size // gpus)
                    whole = int(self._whole(gpu_type, gpus)[spot[0]]) + turned.get(spot, 0)
                    found += (whole + 1) // each - whole // each
                    turned[spot] = turned.get(spot, 0) + 1
        return found

    def _change(self, node: int, more: int) -> None:
        """One node gives so many GPUs more from now on."""
        lists = self.lists
        s1, gpu_type, gpus = lists.s1[node], lists.type[node], lists.gpus[node]
        before: int = self._avail[node]
        after = before + more
        self._avail[node] = after
        self._free[s1] += more
        self._bound[s1] += more
        self.signatures.touch(node, after)
        turned = (after == gpus) - (before == gpus)
        whole = 0
        if turned and (gpu_type, gpus) in self._full:
            whole = int(self._full[gpu_type, gpus][s1])
            self._full[gpu_type, gpus][s1] += turned
        for size, table in self._tables[gpu_type].items():
            if size <= gpus:
                slots = after // size - before // size
            else:
                each = -(-size // gpus)
                slots = (whole + turned) // each - whole // each if turned else 0
            if slots:
                for view in table.views:
                    view[s1] += slots

    def _table(self, gpu_type: int, size: int) -> _Table:
        table = self._tables[gpu_type].get(size)
        if table is None:
            slots = self._count(gpu_type, size)
            table = self._tables[gpu_type][size] = _Table(size, slots, [slots.data])
        return table

    def _count(self, gpu_type: int, size: int) -> Vector:
        count = self._per_s1(np.where(self.topology.type == gpu_type, self.avail // size, 0))
        for node_size in self.lists.sizes[gpu_type]:
            if node_size < size:
                count = count + self._whole(gpu_type, node_size) // -(-size // node_size)
        return count

    def _whole(self, gpu_type: int, node_size: int) -> Vector:
        """Nodes of a type and size that are wholly free, per s1."""
        key = gpu_type, node_size
        if key not in self._full:
            topology = self.topology
            free = (topology.type == gpu_type) & (topology.gpus == node_size) & (self.avail == node_size)
            self._full[key] = self._per_s1(free.astype(np.int64))
        return self._full[key]

    def _per_s1(self, per_node: Vector) -> Vector:
        if not len(per_node):
            return np.zeros(0, dtype=np.int64)
        return np.add.reduceat(per_node, self.topology.levels[S1].first[:-1])
