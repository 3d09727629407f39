"""Structure as a number: what makes two domains alike, whatever they are called.

Ties between domains are broken by these before path names, so that renaming nodes or pods changes no status. A tree is
described from the leaves up (canonical forms of rooted trees, Aho, Hopcroft and Ullman 1974, example 3.2), here by sums of
mixed 64-bit words, which need no sorting: a node that changed is subtracted and added again, level by level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.names import ServiceName, short_hash
from heteroscale.contracts.placements import Group
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.topology import Topology

Words = npt.NDArray[np.uint64]

_A: Final = 0xBF58476D1CE4E5B9
_B: Final = 0x94D049BB133111EB
_STEP: Final = 0x9E3779B97F4A7C15
_FULL: Final = (1 << 64) - 1


def mix(words: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), element by element."""
    mixed = words + np.uint64(_STEP)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_A)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_B)
    return mixed ^ (mixed >> np.uint64(31))


def mix_one(word: int) -> int:
    """The same for one word."""
    mixed = (word + _STEP) & _FULL
    mixed = ((mixed ^ (mixed >> 30)) * _A) & _FULL
    mixed = ((mixed ^ (mixed >> 27)) * _B) & _FULL
    return mixed ^ (mixed >> 31)


class Signatures:
    """Signatures of all s1, s2 and clusters, brought up to date when they are asked for.

    A leaf is mix(node ^ mix(free)); an s0 the sum of its leaves, an s1 the sum of its mixed s0, and so on: `_s0` and
    `_sum1` are such sums, `_s1` the mixed `_sum1`, `_s2` and `_cluster` sums again. Words wrap at 64 bits.
    """

    def __init__(self, topology: Topology, state: npt.NDArray[np.int8]) -> None:
        self._topology = topology
        kind = (topology.type.astype(np.int64) << 32) + (topology.gpus.astype(np.int64) << 4) + state
        self.nodes: Words = mix(kind.astype(np.uint64))
        self._s0_of = topology.levels[Level.S0].of
        self._rack_of: list[int] = self._s0_of.tolist()
        self._pod_of: list[int] = topology.levels[Level.S1].of[topology.levels[Level.S0].first[:-1]].tolist()
        self._s1_of = topology.levels[Level.S1].of
        self._s2_of = topology.s2_of_s1
        self._cluster_of_s2 = topology.levels[Level.CLUSTER].of[topology.levels[Level.S2].first[:-1]]
        self._leaves: Words | None = None
        self._dirty: dict[int, int] = {}
        self._free: dict[int, int] = {}
        nothing = np.zeros(0, dtype=np.uint64)
        self._s0: Words = nothing
        self._sum1: Words = nothing
        self._s1: Words = nothing
        self._s2: Words = nothing
        self._cluster: Words = nothing

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

    def touch(self, node: int, free: int) -> None:
        """The free GPUs of a node changed."""
        self._dirty[node] = free

    def first_of(self, avail: npt.NDArray[np.int64], tied: npt.NDArray[np.int64]) -> int:
        """The one of the tied s1 that comes first by structure, then by path (their number)."""
        if len(tied) == 1:
            return int(tied[0])
        self._update(avail)
        words = self._s1[tied]
        first = tied[words == words.min()]
        return int(first[0]) if len(first) == 1 else int(self.order(avail, first, Level.S1)[0])

    def order(self, avail: npt.NDArray[np.int64], tied: npt.NDArray[np.int64], level: Level) -> npt.NDArray[np.int64]:
        """Domains of a level by structure, from the inside out, then by path."""
        if len(tied) == 1:
            return tied
        self._update(avail)
        topology = self._topology
        if level is Level.S1:
            keys = (self._s1[tied], self._s2[self._s2_of[tied]], self._cluster[topology.cluster_of_s1[tied]])
        elif level is Level.S2:
            cluster = self._cluster[self._cluster_of_s2[tied]]
            keys = (self._s2[tied], cluster, cluster)
        else:
            keys = (self._cluster[tied],) * 3
        ordered: npt.NDArray[np.int64] = tied[np.lexsort((tied, *keys[::-1]))]
        return ordered

    def _update(self, avail: npt.NDArray[np.int64]) -> None:
        if self._leaves is None:
            self._leaves = self._build(avail)
        elif self._dirty:
            self._renew(self._leaves)
        self._dirty.clear()

    def _build(self, avail: npt.NDArray[np.int64]) -> Words:
        """All words from the leaves up."""
        levels = self._topology.levels
        s1_first = levels[Level.S1].first[:-1]
        leaves = mix(self.nodes ^ mix(avail.astype(np.uint64)))
        self._s0 = np.add.reduceat(leaves, levels[Level.S0].first[:-1])
        self._sum1 = np.add.reduceat(mix(self._s0), self._s0_of[s1_first])
        self._s1 = mix(self._sum1)
        self._s2 = np.add.reduceat(mix(self._s1), self._s1_of[levels[Level.S2].first[:-1]])
        clusters = levels[Level.S2].of[levels[Level.CLUSTER].first[:-1]]
        self._cluster = np.add.reduceat(mix(self._s2), clusters)
        return leaves

    def _renew(self, leaves: Words) -> None:
        """The nodes that changed, and the sums that they are in: each sum once."""
        racks: dict[int, int] = {}
        for node, free in self._dirty.items():
            if free not in self._free:
                self._free[free] = mix_one(free)
            new = mix_one(int(self.nodes[node]) ^ self._free[free])
            rack = self._rack_of[node]
            racks[rack] = racks.get(rack, 0) + new - int(leaves[node])
            leaves[node] = new
        pods: dict[int, int] = {}
        for rack, more in racks.items():
            before, after = _add(self._s0, rack, more)
            pod = self._pod_of[rack]
            pods[pod] = pods.get(pod, 0) + mix_one(after) - mix_one(before)
        blocks: dict[int, int] = {}
        for pod, more in pods.items():
            _, total = _add(self._sum1, pod, more)
            before, after = int(self._s1[pod]), mix_one(total)
            self._s1[pod] = after
            block = int(self._s2_of[pod])
            blocks[block] = blocks.get(block, 0) + mix_one(after) - mix_one(before)
        for block, more in blocks.items():
            before, after = _add(self._s2, block, more)
            _add(self._cluster, int(self._cluster_of_s2[block]), mix_one(after) - mix_one(before))


def _add(sums: Words, at: int, more: int) -> tuple[int, int]:
    """A sum before and after."""
    before = int(sums[at])
    after = (before + more) & _FULL
    sums[at] = after
    return before, after
