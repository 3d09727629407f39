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
from heteroscale.placement.planning.topology import S0, S1, S2, Topology

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

    A leaf is mix(node ^ mix(free)), an s0 the sum of its leaves, an s1 the mixed sum of its mixed s0, an s2 the sum of its
    mixed s1, a cluster the sum of its mixed s2. Words wrap at 64 bits.
    """

    def __init__(self, topology: Topology, state: npt.NDArray[np.int8]) -> None:
        self._topology = topology
        kind = (topology.type.astype(np.int64) << 32) + (topology.gpus.astype(np.int64) << 4) + state
        self.nodes: Words = mix(kind.astype(np.uint64))
        self._words = self.nodes.data
        self._leaves: memoryview | None = None
        self._chain: tuple[_Sums, ...] = ()
        nothing = np.zeros(0, dtype=np.uint64)
        self._s1, self._s2, self._cluster = nothing, nothing, nothing
        self._dirty: dict[int, int] = {}
        self._known: dict[tuple[int, int], int] = {}

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
        words = self._current(avail)[0][tied]
        first = tied[words == np.minimum.reduce(words)]
        return int(first[0]) if len(first) == 1 else int(self.order(avail, first, S1)[0])

    def order(self, avail: npt.NDArray[np.int64], tied: npt.NDArray[np.int64], level: Level) -> npt.NDArray[np.int64]:
        """Domains of a level by structure, from the inside out, then by path."""
        if len(tied) == 1:
            return tied
        s1, s2, cluster = self._current(avail)
        topology = self._topology
        keys: tuple[Words, ...]
        if level is S1:
            keys = (s1[tied], s2[topology.s2_of_s1[tied]], cluster[topology.cluster_of_s1[tied]])
        elif level is S2:
            keys = (s2[tied], cluster[[topology.lists.cluster_of_s2[at] for at in tied.tolist()]])
        else:
            keys = (cluster[tied],)
        ordered: npt.NDArray[np.int64] = tied[np.lexsort((tied, *keys[::-1]))]
        return ordered

    def _current(self, avail: npt.NDArray[np.int64]) -> tuple[Words, Words, Words]:
        """The words of all s1, s2 and clusters as their nodes are now."""
        if self._leaves is None:
            self._build(avail)
        elif self._dirty:
            self._renew(self._leaves)
        self._dirty.clear()
        return self._s1, self._s2, self._cluster

    def _build(self, avail: npt.NDArray[np.int64]) -> None:
        """All words from the leaves up."""
        levels, lists = self._topology.levels, self._topology.lists
        frees = mix(np.arange(int(avail.max(initial=0)) + 1, dtype=np.uint64))
        leaves = mix(self.nodes ^ frees[avail])
        s0 = _Sums(np.add.reduceat(leaves, levels[S0].first[:-1]), lists.s1_of_s0)
        racks = _Sums(np.add.reduceat(s0.mixed, _starts(lists.s1_of_s0)), list(range(len(lists.pool))))
        s1 = _Sums(racks.mixed.copy(), lists.s2_of_s1)
        s2 = _Sums(np.add.reduceat(s1.mixed, _starts(lists.s2_of_s1)), lists.cluster_of_s2)
        cluster = _Sums(np.add.reduceat(s2.mixed, _starts(lists.cluster_of_s2)), [])
        self._leaves, self._chain = leaves.data, (s0, racks, s1, s2, cluster)
        self._s1, self._s2, self._cluster = s1.sums, s2.sums, cluster.sums

    def _renew(self, leaves: memoryview) -> None:
        """The nodes that changed, and the sums that they are in: each sum once."""
        s0, known, words = self._topology.lists.s0, self._known, self._words
        changes: dict[int, int] = {}
        for node, free in self._dirty.items():
            key = words[node], free
            new = known.get(key)
            if new is None:
                new = known[key] = mix_one(key[0] ^ mix_one(free))
            changes[s0[node]] = changes.get(s0[node], 0) + new - leaves[node]
            leaves[node] = new
        for sums in self._chain:
            changes = sums.renew(changes)


class _Sums:
    """The domains of one level: the sum of what each holds, and that sum mixed. `outer`: the domain around each; empty at the top."""

    def __init__(self, sums: Words, outer: list[int]) -> None:
        self.sums, self.mixed = sums, mix(sums)
        self._sums, self._mixed, self._outer = sums.data, self.mixed.data, outer

    def renew(self, changes: dict[int, int]) -> dict[int, int]:
        """Add the changes to the sums; the changes that follow one level further out."""
        further: dict[int, int] = {}
        sums, mixed, outer = self._sums, self._mixed, self._outer
        for at, more in changes.items():
            total = sums[at] = (sums[at] + more) & _FULL
            if outer:
                before, around = mixed[at], outer[at]
                after = mixed[at] = mix_one(total)
                further[around] = further.get(around, 0) + after - before
        return further


def _starts(outer: list[int]) -> npt.NDArray[np.int64]:
    """The first of each run of equals in a rising list."""
    return np.flatnonzero(np.diff(outer, prepend=-1))
