"""The GPUs of one cycle: what each node still gives, and how many instances of a size each s1 can hold.

Virtual allocation happens here: `take` makes GPUs vanish for all later requests of the cycle, `give` undoes a trial.
Vectors are int64 over the s1 domains; they are computed once a cycle and kept current for the s1 that change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


class Ledger:
    """Free GPUs on ready nodes and what follows from them."""

    def __init__(self, topology: Topology, free: npt.NDArray[np.int16], state: npt.NDArray[np.int8]) -> None:
        self.topology = topology
        self.avail: Vector = np.where(state == READY, free, 0).astype(np.int64)
        self._s1_of = topology.levels[Level.S1].of
        self._first = topology.levels[Level.S1].first.tolist()
        self._gpus = topology.gpus.astype(np.int64)
        self.gpus: list[int] = topology.gpus.tolist()
        self.types: list[int] = topology.type.tolist()
        self.s0_of: list[int] = topology.levels[Level.S0].of.tolist()
        self.pools = len(self._first) - 1
        self.free: Vector = self._per_s1(self.avail)
        self._pod_of: list[int] = self._s1_of.tolist()
        self._stale: dict[tuple[int, int], set[int]] = {}
        self._slots: dict[tuple[int, int], Vector] = {}
        self._sizes: dict[int, list[int]] = {}
        for code in range(len(topology.types)):
            self._sizes[code] = sorted({int(size) for size in np.unique(topology.gpus[topology.type == code])})
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
        key = (gpu_type, gpus)
        found = self._slots.get(key)
        if found is None:
            found = self._count(gpu_type, gpus)
            self._slots[key] = found
            self._stale[key] = set()
        elif self._stale[key]:
            self._refresh(key, found, self._stale[key])
            self._stale[key] = set()
        return found

    def over(self, level: Level, vector: Vector) -> Vector:
        """Sum a vector over the s1 of each domain of a level."""
        if level is Level.S1:
            return vector
        return np.add.reduceat(vector, self._starts[level]) if len(vector) else vector

    def take(self, nodes: Mapping[int, int]) -> None:
        """GPUs per node that are gone for the rest of the cycle."""
        self._move(nodes, -1)

    def give(self, nodes: Mapping[int, int]) -> None:
        """Undo a take."""
        self._move(nodes, 1)

    def _move(self, nodes: Mapping[int, int], sign: int) -> None:
        touched: set[int] = set()
        for node, gpus in nodes.items():
            self.avail[node] += sign * gpus
            s1 = self._pod_of[node]
            self.free[s1] += sign * gpus
            touched.add(s1)
        self.signatures.touch(touched)
        for stale in self._stale.values():
            stale.update(touched)

    def _refresh(self, key: tuple[int, int], vector: Vector, s1s: Iterable[int]) -> None:
        gpu_type, size = key
        gpus, types = self.gpus, self.types
        for s1 in s1s:
            first, last = self.nodes_of(s1)
            count = 0
            full: dict[int, int] = {}
            for node, free in enumerate(self.avail[first:last].tolist(), start=first):
                if free and types[node] == gpu_type:
                    if gpus[node] >= size:
                        count += free // size
                    elif gpus[node] == free:
                        full[free] = full.get(free, 0) + 1
            vector[s1] = count + sum(number // -(-size // node_size) for node_size, number in full.items())

    def _count(self, gpu_type: int, size: int) -> Vector:
        of_type = self.topology.type == gpu_type
        fits = of_type & (self._gpus >= size)
        count = self._per_s1(np.where(fits, self.avail // size, 0))
        for node_size in self._sizes[gpu_type]:
            if node_size < size:
                full = of_type & (self._gpus == node_size) & (self.avail == node_size)
                count = count + self._per_s1(full.astype(np.int64)) // -(-size // node_size)
        return count

    def _per_s1(self, per_node: Vector) -> Vector:
        if not len(per_node):
            return np.zeros(0, dtype=np.int64)
        return np.add.reduceat(per_node, self._first[:-1])

    def _s1_starts(self, level: Level) -> npt.NDArray[np.int64]:
        if level is Level.S1:
            return np.arange(self.pools, dtype=np.int64)
        of = self.topology.s2_of_s1 if level is Level.S2 else self.topology.cluster_of_s1
        return np.searchsorted(of, np.arange(len(self.topology.levels[level]))).astype(np.int64)
