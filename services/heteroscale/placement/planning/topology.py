"""The fleet's shape as immutable arrays: nodes sorted by their whole path, so that every s0, s1, s2 and cluster is one range.

Owns: identity by path, dense domain numbers, GPU classes, structural pool classes. Knows nothing of who holds what.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.errors import Broken
from heteroscale.contracts.fleet import FleetNode, NodeState
from heteroscale.contracts.names import FleetName, GpuTypeName, NodeName
from heteroscale.contracts.placements import Domain, Pool
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.memo import Memo

Ints: TypeAlias = npt.NDArray[np.int32]
Counts: TypeAlias = npt.NDArray[np.int16]
Codes: TypeAlias = npt.NDArray[np.int8]

READY: Final = 0
CORDONED: Final = 1
LOST: Final = 2
STATE_CODE: Final[Mapping[NodeState, int]] = {NodeState.READY: READY, NodeState.CORDONED: CORDONED, NodeState.LOST: LOST}
POOLS: Final = (Pool.LOW, Pool.MEDIUM, Pool.HIGH)
S0: Final = Level.S0
S1: Final = Level.S1
S2: Final = Level.S2
CLUSTER: Final = Level.CLUSTER
LEVELS: Final = (S0, S1, S2, CLUSTER)
"""The levels by names of their own: in Python 3.11 an attribute of an enum class costs ten times a global, and a cycle asks often."""
WIDTH: Final[Mapping[Level, int]] = {level: width for width, level in enumerate(LEVELS)}
"""Levels by how wide they are: s0 is 0, the cluster 3."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The domains of one level: domain d holds the nodes first[d] up to first[d + 1]; `of` maps a node to its domain."""

    of: Ints
    first: Ints
    paths: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """The topology for whoever asks about one node or one domain at a time: an element of a list costs a tenth of an array's.

    By node: `gpus`, `type`, `s0`, `s1`. By s0: `s1_of_s0`. By s1: `first` (its nodes; one more at the end), `pool`, `s2_of_s1`.
    By s2: `cluster_of_s2`. `starts[Level]`: the first s1 of each domain; one more at the end. `sizes[type]`: GPUs a node of
    the type may have, ascending.
    """

    gpus: list[int]
    type: list[int]
    s0: list[int]
    s1: list[int]
    s1_of_s0: list[int]
    first: list[int]
    pool: list[int]
    s2_of_s1: list[int]
    cluster_of_s2: list[int]
    starts: Mapping[Level, list[int]]
    sizes: list[list[int]]


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Nodes in path order (cluster, s2, s1, s0, node) and the domains over them.

    `gpus` int16[n], `type` int16[n] (index into `types`, sorted by name), `state` int8[n] as the fleet records say.
    `levels[Level]` are Ranges; `s2_of_s1` and `cluster_of_s1` int32[number of s1]; `pool` int8[number of s1] is an
    index into POOLS. A cordoned or lost node still counts for its pod's class. `lists` says the same once more;
    `memos` keeps what cycles worked out about demands on a fleet of this shape.
    """

    fleet: FleetName
    names: tuple[NodeName, ...]
    index: Mapping[NodeName, int]
    types: tuple[GpuTypeName, ...]
    gpus: Counts
    type: Counts
    state: Codes
    levels: Mapping[Level, Ranges]
    s2_of_s1: Ints
    cluster_of_s1: Ints
    pool: Codes
    lists: Lists
    memos: dict[Hashable, Memo] = field(default_factory=dict)

    @classmethod
    def build(cls, fleet: FleetName, nodes: Iterable[FleetNode]) -> Topology:
        """The topology of a fleet. Raises Broken if a node name comes twice: a held GPU must have one home."""
        ordered = sorted(nodes, key=_path)
        names = tuple(node.node for node in ordered)
        index = {name: i for i, name in enumerate(names)}
        if len(index) != len(names):
            twice = sorted(name for name in index if names.count(name) > 1)
            raise Broken(f"node {twice[0]} stands twice in fleet {fleet}")
        types = tuple(sorted({node.gpu_type for node in ordered}))
        code = {name: i for i, name in enumerate(types)}
        levels = {level: _ranges(ordered, WIDTH[level]) for level in LEVELS}
        gpu_type = np.array([code[node.gpu_type] for node in ordered], dtype=np.int16)
        gpus = np.array([node.gpus for node in ordered], dtype=np.int16)
        pool = _pools(levels, gpu_type, len(types))
        first = levels[S1].first[:-1]
        return cls(
            fleet=fleet,
            names=names,
            index=index,
            types=types,
            gpus=gpus,
            type=gpu_type,
            state=np.array([STATE_CODE[node.state] for node in ordered], dtype=np.int8),
            levels=levels,
            s2_of_s1=levels[S2].of[first],
            cluster_of_s1=levels[CLUSTER].of[first],
            pool=pool,
            lists=_lists(levels, gpus, gpu_type, pool, len(types)),
        )

    def domain(self, level: Level, number: int) -> Domain:
        """The message form of a domain; an s0 is told by its s1."""
        path = self.levels[level].paths[number]
        return Domain(cluster=path[0], s2=path[1] if len(path) > 1 else None, s1=path[2] if len(path) > 2 else None)

    def spanned(self, nodes: Iterable[int]) -> tuple[Level, int] | None:
        """The narrowest of s1, s2, cluster that holds all the nodes (by index); None for no node or several clusters."""
        found = list(nodes)
        if not found:
            return None
        first, last = self.lists.s1[min(found)], self.lists.s1[max(found)]
        if first == last:  # a domain is one range of nodes
            return S1, first
        for level in (S2, CLUSTER):
            starts = self.lists.starts[level]
            domain = bisect.bisect_right(starts, first) - 1
            if last < starts[domain + 1]:
                return level, domain
        return None


def _path(node: FleetNode) -> tuple[str, str, str, str, str]:
    return node.at.cluster, node.at.s2, node.at.s1, node.at.s0 or "", node.node


def _ranges(ordered: list[FleetNode], width: int) -> Ranges:
    """Number the domains of a level in path order. A missing s0 is one s0 of its own per s1."""
    depth = 4 - width
    of = np.zeros(len(ordered), dtype=np.int32)
    first: list[int] = []
    paths: list[tuple[str, ...]] = []
    for i, node in enumerate(ordered):
        path = _path(node)[:depth]
        if not paths or paths[-1] != path:
            paths.append(path)
            first.append(i)
        of[i] = len(paths) - 1
    return Ranges(of=of, first=np.array([*first, len(ordered)], dtype=np.int32), paths=tuple(paths))


def _pools(levels: Mapping[Level, Ranges], gpu_type: Counts, types: int) -> Codes:
    """Pool class of each s1: 0 its s2 has one GPU type, 1 its s2 has several but it has one, 2 it has several itself."""
    s1, s2 = levels[S1], levels[S2]
    in_s1 = np.zeros((len(s1), max(1, types)), dtype=bool)
    in_s2 = np.zeros((len(s2), max(1, types)), dtype=bool)
    in_s1[s1.of, gpu_type] = True
    in_s2[s2.of, gpu_type] = True
    mixed_s2 = in_s2.sum(axis=1)[s2.of[s1.first[:-1]]] > 1
    return np.where(in_s1.sum(axis=1) > 1, 2, np.where(mixed_s2, 1, 0)).astype(np.int8)


def _lists(levels: Mapping[Level, Ranges], gpus: Counts, gpu_type: Counts, pool: Codes, types: int) -> Lists:
    s0, s1, s2, cluster = (levels[level] for level in LEVELS)
    first = s1.first[:-1]
    starts = {level: np.searchsorted(levels[level].of[first], np.arange(len(levels[level]) + 1)).tolist() for level in LEVELS[1:]}
    return Lists(
        gpus=gpus.tolist(),
        type=gpu_type.tolist(),
        s0=s0.of.tolist(),
        s1=s1.of.tolist(),
        s1_of_s0=s1.of[s0.first[:-1]].tolist(),
        first=s1.first.tolist(),
        pool=pool.tolist(),
        s2_of_s1=s2.of[first].tolist(),
        cluster_of_s2=cluster.of[s2.first[:-1]].tolist(),
        starts=starts,
        sizes=[np.unique(gpus[gpu_type == code]).tolist() for code in range(types)],
    )
