"""The GPUs of one cycle: what each node still gives, and how many instances of a size each s1 can hold.

Virtual allocation happens here: `take` makes GPUs vanish for all later requests of the cycle, `give` undoes a trial.
Vectors are int64 over the s1 domains. They are counted at the first question and kept true with every node that changes,
so whoever holds one sees it change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.placements import Group
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.signature import Signatures
from heteroscale.placement.planning.topology import READY, Topology

Vector: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

RANK_BITS = 40
POOL_BITS = 36
"""A bound of the cost of an s1 as one number: instances on less preferred types, pool class, free GPUs."""


@dataclass(slots=True)
class _Table:
    """Slots of one size on one type, per s1, and the sums over several types that they are part of."""

    size: int
    slots: Vector
    unions: list[Vector] = field(default_factory=list)

    def add(self, s1: int, more: int) -> None:
        """So many slots more in an s1."""
        self.slots[s1] += more
        for union in self.unions:
            union[s1] += more


class Ledger:
    """Free GPUs on ready nodes and what follows from them."""

    def __init__(self, topology: Topology, free: npt.NDArray[np.int16], state: npt.NDArray[np.int8]) -> None:
        self.topology = topology
        self.avail: Vector = np.where(state == READY, free, 0).astype(np.int64)
        self._first: list[int] = topology.levels[Level.S1].first.tolist()
        self._gpus = topology.gpus.astype(np.int64)
        self.gpus: list[int] = topology.gpus.tolist()
        self.types: list[int] = topology.type.tolist()
        self.s0_of: list[int] = topology.levels[Level.S0].of.tolist()
        self.s1_of: list[int] = topology.levels[Level.S1].of.tolist()
        self.pool_of: list[int] = topology.pool.tolist()
        self.pools = len(self._first) - 1
        self.pool_worst = max(self.pool_of, default=0)
        self._up_to: dict[int, Mask] = {}
        self.free: Vector = self._per_s1(self.avail)
        self.bound: Vector = (topology.pool.astype(np.int64) << POOL_BITS) + self.free
        self._tables: dict[int, dict[int, _Table]] = {code: {} for code in range(len(topology.types))}
        self._unions: dict[tuple[frozenset[int], int], Vector] = {}
        self._full: dict[tuple[int, int], Vector] = {}
        self._sizes: dict[int, list[int]] = {
            code: np.unique(topology.gpus[topology.type == code]).tolist() for code in range(len(topology.types))
        }
        self.signatures = Signatures(topology, state)
        self._starts = {level: self._s1_starts(level) for level in (Level.S1, Level.S2, Level.CLUSTER)}

    def remember(self, assignments: Mapping[ServiceName, tuple[Group, ...]], services: Iterable[ServiceName]) -> None:
        """Tell ties apart by who sits where, for the services of this cycle."""
        self.signatures.occupy(assignments, services)

    def range_of(self, level: Level, number: int) -> tuple[int, int]:
        """The s1 numbers of a domain, first and one past the last."""
        starts = self._starts[level]
        return int(starts[number]), int(starts[number + 1]) if number + 1 < len(starts) else self.pools

    def nodes_of(self, s1: int) -> tuple[int, int]:
        """The nodes of an s1, first and one past the last."""
        return self._first[s1], self._first[s1 + 1]

    def up_to_pool(self, worst: int) -> Mask | None:
        """The s1 of this pool class or better; None for all."""
        if worst >= self.pool_worst:
            return None
        if worst not in self._up_to:
            self._up_to[worst] = self.topology.pool <= worst
        return self._up_to[worst]

    def sizes(self, gpu_type: int) -> list[int]:
        """GPUs a node of this type may have, ascending."""
        return self._sizes[gpu_type]

    def effective(self, gpu_type: int, gpus: int) -> int:
        """GPUs that an instance really takes: whole nodes once it is larger than every node of the type."""
        sizes = self._sizes[gpu_type]
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
                table.unions.append(union)
        return union

    def over(self, level: Level, vector: Vector) -> Vector:
        """Sum a vector over the s1 of each domain of a level."""
        if level is Level.S1:
            return vector
        return np.add.reduceat(vector, self._starts[level]) if len(vector) else vector

    def fewest(self, level: Level, vector: Vector, need: int) -> Vector:
        """In each domain of a level, how many of its s1 it takes at least to make up the need."""
        starts = self._starts[level]
        domain = np.repeat(np.arange(len(starts)), np.diff(starts, append=self.pools))
        falling = vector[np.lexsort((-vector, domain))]
        reached = np.cumsum(falling)
        before = reached[starts] - falling[starts]
        short: Vector = np.add.reduceat((reached - before[domain] < need).astype(np.int64), starts)
        return short + 1

    def take(self, nodes: Mapping[int, int]) -> None:
        """GPUs per node that are gone for the rest of the cycle."""
        for node, gpus in nodes.items():
            self._set(node, int(self.avail[node]) - gpus)

    def give(self, nodes: Mapping[int, int]) -> None:
        """Undo a take."""
        for node, gpus in nodes.items():
            self._set(node, int(self.avail[node]) + gpus)

    def gained(self, types: frozenset[int], size: int, nodes: Mapping[int, int]) -> int:
        """Slots more on these types, were these GPUs given back."""
        found = 0
        turned: dict[tuple[int, int], int] = {}
        for node, more in nodes.items():
            gpu_type, gpus = self.types[node], self.gpus[node]
            if gpu_type in types:
                before = int(self.avail[node])
                if size <= gpus:
                    found += (before + more) // size - before // size
                elif before + more == gpus:
                    spot = self.s1_of[node], gpu_type
                    each = -(-size // gpus)
                    whole = int(self._whole(gpu_type, gpus)[spot[0]]) + turned.get(spot, 0)
                    found += (whole + 1) // each - whole // each
                    turned[spot] = turned.get(spot, 0) + 1
        return found

    def _set(self, node: int, after: int) -> None:
        """One node gives so much from now on."""
        before, s1, gpu_type, gpus = int(self.avail[node]), self.s1_of[node], self.types[node], self.gpus[node]
        self.avail[node] = after
        self.free[s1] += after - before
        self.bound[s1] += after - before
        self.signatures.touch(node, after)
        turned = (after == gpus) - (before == gpus)
        whole = 0
        if turned and (gpu_type, gpus) in self._full:
            whole = int(self._full[gpu_type, gpus][s1])
            self._full[gpu_type, gpus][s1] += turned
        for size, table in self._tables[gpu_type].items():
            if size <= gpus:
                more = after // size - before // size
            else:
                each = -(-size // gpus)
                more = (whole + turned) // each - whole // each if turned else 0
            if more:
                table.add(s1, more)

    def _table(self, gpu_type: int, size: int) -> _Table:
        table = self._tables[gpu_type].get(size)
        if table is None:
            table = self._tables[gpu_type][size] = _Table(size, self._count(gpu_type, size))
        return table

    def _count(self, gpu_type: int, size: int) -> Vector:
        of_type = self.topology.type == gpu_type
        fits = of_type & (self._gpus >= size)
        count = self._per_s1(np.where(fits, self.avail // size, 0))
        for node_size in self._sizes[gpu_type]:
            if node_size < size:
                count = count + self._whole(gpu_type, node_size) // -(-size // node_size)
        return count

    def _whole(self, gpu_type: int, node_size: int) -> Vector:
        """Nodes of a type and size that are wholly free, per s1."""
        key = gpu_type, node_size
        if key not in self._full:
            free = (self.topology.type == gpu_type) & (self._gpus == node_size) & (self.avail == node_size)
            self._full[key] = self._per_s1(free.astype(np.int64))
        return self._full[key]

    def _per_s1(self, per_node: Vector) -> Vector:
        if not len(per_node):
            return np.zeros(0, dtype=np.int64)
        return np.add.reduceat(per_node, self._first[:-1])

    def _s1_starts(self, level: Level) -> npt.NDArray[np.int64]:
        if level is Level.S1:
            return np.arange(self.pools, dtype=np.int64)
        of = self.topology.s2_of_s1 if level is Level.S2 else self.topology.cluster_of_s1
        return np.searchsorted(of, np.arange(len(self.topology.levels[level]))).astype(np.int64)
