"""Structure as a number: what makes two domains alike, whatever they are called.

Ties between domains are broken by these before path names, so that renaming nodes or pods changes no status. A tree is
described from the leaves up (canonical forms of rooted trees, Aho, Hopcroft and Ullman 1974, example 3.2), here by sums of
mixed 64-bit words, which need no sorting and follow changes of one s1 cheaply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.names import ServiceName, short_hash
from heteroscale.contracts.placements import Group
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.topology import Topology

Words = npt.NDArray[np.uint64]

_A = np.uint64(0xBF58476D1CE4E5B9)
_B = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def mix(words: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), element by element."""
    mixed = words + _STEP
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _A
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _B
    return mixed ^ (mixed >> np.uint64(31))


class Signatures:
    """Signatures of all s1, s2 and clusters, brought up to date when they are asked for."""

    def __init__(self, topology: Topology, state: npt.NDArray[np.int8]) -> None:
        self._topology = topology
        kind = (topology.type.astype(np.int64) << 32) + (topology.gpus.astype(np.int64) << 4) + state
        self.nodes: Words = mix(kind.astype(np.uint64))
        self._s0_first = topology.levels[Level.S0].first
        self._s1_first = topology.levels[Level.S1].first
        self._s0_of_s1 = topology.levels[Level.S0].of[self._s1_first[:-1]]
        self._s1_of_s2 = topology.levels[Level.S1].of[topology.levels[Level.S2].first[:-1]]
        self._s2_of_cluster = topology.levels[Level.S2].of[topology.levels[Level.CLUSTER].first[:-1]]
        self._s1: Words | None = None
        self._dirty: set[int] = set()
        self._s2: Words = np.zeros(0, dtype=np.uint64)
        self._cluster: Words = np.zeros(0, dtype=np.uint64)

    def occupy(self, assignments: Mapping[ServiceName, tuple[Group, ...]], services: Iterable[ServiceName]) -> None:
        """Mark where the services sit; before the first question."""
        index = self._topology.index
        marks: dict[int, int] = {}
        for service in services:
            for group in assignments.get(service, ()):
                words: dict[str, int] = {}
                for instance in group.instances:
                    if instance.role not in words:
                        words[instance.role] = int(short_hash(f"{service}|{group.id}|{instance.role}"), 16)
                    for node in instance.nodes:
                        if node in index:
                            marks[index[node]] = (marks.get(index[node], 0) + words[instance.role]) % (1 << 64)
        if marks:
            at = np.fromiter(marks, dtype=np.int64, count=len(marks))
            self.nodes[at] = mix(self.nodes[at] ^ np.fromiter(marks.values(), dtype=np.uint64, count=len(marks)))

    def touch(self, s1s: set[int]) -> None:
        """The free GPUs of these s1 changed."""
        self._dirty |= s1s

    def first_of(self, avail: npt.NDArray[np.int64], tied: npt.NDArray[np.int64], level: Level = Level.S1) -> int:
        """The one of the tied domains that comes first by structure, then by path (their number)."""
        return int(tied[0]) if len(tied) == 1 else int(self.order(avail, tied, level)[0])

    def order(self, avail: npt.NDArray[np.int64], tied: npt.NDArray[np.int64], level: Level) -> npt.NDArray[np.int64]:
        """Domains of a level by structure, from the inside out, then by path."""
        s1 = self._update(avail)
        topology = self._topology
        if level is Level.S1:
            keys = (s1[tied], self._s2[topology.s2_of_s1[tied]], self._cluster[topology.cluster_of_s1[tied]])
        elif level is Level.S2:
            cluster = topology.levels[Level.CLUSTER].of[topology.levels[Level.S2].first[tied]]
            keys = (self._s2[tied], self._cluster[cluster], self._cluster[cluster])
        else:
            keys = (self._cluster[tied],) * 3
        ordered: npt.NDArray[np.int64] = tied[np.lexsort((tied, *keys[::-1]))]
        return ordered

    def _update(self, avail: npt.NDArray[np.int64]) -> Words:
        if self._s1 is not None and not self._dirty:
            return self._s1
        if self._s1 is None:
            s0 = mix(np.add.reduceat(self._leaves(avail, 0, len(avail)), self._s0_first[:-1]))
            self._s1 = mix(np.add.reduceat(s0, self._s0_of_s1))
        else:
            self._renew(avail, self._s1)
        self._dirty.clear()
        words = mix(self._s1)
        self._s2 = np.add.reduceat(words, self._s1_of_s2)
        self._cluster = np.add.reduceat(mix(self._s2), self._s2_of_cluster)
        return self._s1

    def _renew(self, avail: npt.NDArray[np.int64], s1_words: Words) -> None:
        """The words of the s1 that changed, all of them in one go."""
        changed = sorted(self._dirty)
        racks = self._s0_of_s1
        ends = [int(racks[s1 + 1]) if s1 + 1 < len(racks) else len(self._s0_first) - 1 for s1 in changed]
        s0s = [s0 for s1, end in zip(changed, ends, strict=True) for s0 in range(int(racks[s1]), end)]
        sizes = [int(self._s0_first[s0 + 1] - self._s0_first[s0]) for s0 in s0s]
        nodes = np.concatenate([np.arange(self._s1_first[s1], self._s1_first[s1 + 1]) for s1 in changed])
        leaves = mix(self.nodes[nodes] ^ mix(avail[nodes].astype(np.uint64)))
        s0 = mix(np.add.reduceat(leaves, np.cumsum([0, *sizes[:-1]])))
        counts = [end - int(racks[s1]) for s1, end in zip(changed, ends, strict=True)]
        s1_words[changed] = mix(np.add.reduceat(s0, np.cumsum([0, *counts[:-1]])))

    def _leaves(self, avail: npt.NDArray[np.int64], first: int, last: int) -> Words:
        return mix(self.nodes[first:last] ^ mix(avail[first:last].astype(np.uint64)))
