"""Seating replicas inside one s1, node by node: best fit, whole nodes for what is larger, parts together.

A Site is a scratch copy: nothing is taken from the ledger until the caller commits what it seated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Spread
from heteroscale.placement.planning.ledger import Ledger
from heteroscale.placement.planning.topology import S0
from heteroscale.placement.planning.units import Piece, Shape

TOGETHER: Final = Spread.NONE
APART: Final = (Spread.NODE, Spread.S0)
"""How instances of a role are spread inside an s1."""


class Seat(NamedTuple):
    """One replica seated: nodes (by index) and GPUs for each of its pieces."""

    role: RoleName
    type: int
    rank: int
    pieces: tuple[tuple[Piece, Mapping[int, int]], ...]


def gpus_by_node(seats: Iterable[Seat]) -> dict[int, int]:
    """GPUs that the seats take from each node."""
    total: dict[int, int] = {}
    for seat in seats:
        for _, nodes in seat.pieces:
            for node, gpus in nodes.items():
                total[node] = total.get(node, 0) + gpus
    return total


class Site:
    """Free GPUs of a set of nodes (its own to change), bucketed by type, free GPUs and size; in a bucket the first choice is last."""

    def __init__(self, ledger: Ledger, nodes: dict[int, int], spread: Spread = TOGETHER) -> None:
        self._ledger = ledger
        self._spread = spread
        self._marked: dict[RoleName, dict[int, int]] = {}
        self.free = nodes
        self._buckets: dict[int, dict[tuple[int, int], list[int]]] = {}
        types, gpus, buckets = ledger.lists.type, ledger.lists.gpus, self._buckets
        for node in self._order():
            of_type = buckets.get(types[node])
            if of_type is None:
                of_type = buckets[types[node]] = {}
            bucket = of_type.get(key := (nodes[node], gpus[node]))
            if bucket is None:
                of_type[key] = [node]
            else:
                bucket.append(node)

    @classmethod
    def of(cls, ledger: Ledger, s1: int, banned: frozenset[int], spread: Spread = TOGETHER) -> Site:
        """The site of an s1 without the GPU types that are held back there."""
        first, last = ledger.nodes_of(s1)
        nodes = {node: free for node, free in enumerate(ledger.free_in(first, last), start=first) if free}
        if banned:
            types = ledger.lists.type
            nodes = {node: free for node, free in nodes.items() if types[node] not in banned}
        return cls(ledger, nodes, spread)

    def seat(self, shape: Shape, gpu_type: int, rank: int) -> Seat | None:
        """Seat one replica on nodes of this type, or leave the site as it was."""
        scoped = shape.within is S0 and (len(shape.pieces) > 1 or shape.largest > max(self._ledger.sizes(gpu_type), default=0))
        placed = self._in_one_s0(shape, gpu_type) if scoped else self._pieces(shape, gpu_type)
        return None if placed is None else Seat(role=shape.role, type=gpu_type, rank=rank, pieces=placed)

    def seats(self, shape: Shape, gpu_type: int, rank: int, count: int) -> list[Seat]:
        """Seat up to `count` replicas on nodes of this type; those of one instance without a search for each."""
        found: list[Seat] = []
        if shape.simple and shape.within is not S0 and self._spread is TOGETHER:
            self._fill_nodes(shape, gpu_type, (rank, count), found)
            self._fill_whole(shape, gpu_type, (rank, count), found)
            return found
        while len(found) < count:
            seat = self.seat(shape, gpu_type, rank)
            if seat is None:
                break
            found.append(seat)
        return found

    def _fill_nodes(self, shape: Shape, gpu_type: int, wanted: tuple[int, int], found: list[Seat]) -> None:
        """As many on the fullest node that fits as it takes, then the next."""
        rank, count = wanted
        buckets, piece = self._buckets.get(gpu_type, {}), shape.pieces[0]
        for free, size in sorted(key for key in buckets if key[0] >= piece.gpus):
            nodes = buckets[free, size]
            while nodes and len(found) < count:
                node = nodes.pop()
                here = min(count - len(found), free // piece.gpus)
                self.free[node] = free - here * piece.gpus
                buckets.setdefault((self.free[node], size), []).append(node)
                found.extend([Seat(shape.role, gpu_type, rank, ((piece, {node: piece.gpus}),))] * here)

    def _fill_whole(self, shape: Shape, gpu_type: int, wanted: tuple[int, int], found: list[Seat]) -> None:
        """As many as there are whole nodes for, where an instance is larger than a node."""
        rank, count = wanted
        buckets, piece = self._buckets.get(gpu_type, {}), shape.pieces[0]
        for size in self._ledger.sizes(gpu_type):
            while size < piece.gpus and len(found) < count:
                nodes = self._take_whole(buckets, size, piece.gpus)
                if nodes is None:
                    break
                found.append(Seat(shape.role, gpu_type, rank, ((piece, nodes),)))

    def _take_whole(self, buckets: dict[tuple[int, int], list[int]], size: int, gpus: int) -> dict[int, int] | None:
        """Whole nodes of a size for one instance."""
        whole, count = buckets.get((size, size), []), -(-gpus // size)
        if len(whole) < count:
            return None
        chosen = sorted(whole[-count:])
        del whole[-count:]
        buckets.setdefault((0, size), []).extend(chosen)
        for node in chosen:
            self.free[node] = 0
        return dict.fromkeys(chosen, size)

    def _pieces(self, shape: Shape, gpu_type: int) -> tuple[tuple[Piece, Mapping[int, int]], ...] | None:
        placed: list[tuple[Piece, Mapping[int, int]]] = []
        for piece in shape.pieces:
            nodes = self._place(piece.gpus, gpu_type, shape.role)
            if nodes is None:
                for _, taken in placed:
                    self._give(taken)
                return None
            placed.append((piece, nodes))
        return tuple(placed)

    def _in_one_s0(self, shape: Shape, gpu_type: int) -> tuple[tuple[Piece, Mapping[int, int]], ...] | None:
        """All pieces in the s0 that has least room to spare."""
        racks: dict[int, dict[int, int]] = {}
        for node, free in self.free.items():
            if free:
                racks.setdefault(self._ledger.lists.s0[node], {})[node] = free
        for rack in sorted(racks, key=lambda s0: (sum(racks[s0].values()), s0)):
            placed = Site(self._ledger, racks[rack], self._spread)._pieces(shape, gpu_type)  # noqa: SLF001  # a site of its own kind
            if placed is not None:
                for _, nodes in placed:
                    for node, gpus in nodes.items():
                        self._set(node, self.free[node] - gpus)
                return placed
        return None

    def _place(self, gpus: int, gpu_type: int, role: RoleName) -> dict[int, int] | None:
        """One instance: the fullest node that fits, else whole nodes of one size."""
        buckets = self._buckets.get(gpu_type)
        if not buckets:
            return None
        fitting = [key for key, nodes in buckets.items() if nodes and key[0] >= gpus]
        if fitting:
            node = buckets[min(fitting)][-1] if self._spread is TOGETHER else self._apart(role, buckets, fitting)
            self._set(node, self.free[node] - gpus)
            return {node: gpus}
        for size in self._ledger.sizes(gpu_type):
            nodes = self._take_whole(buckets, size, gpus) if size < gpus else None
            if nodes is not None:
                return nodes
        return None

    def _apart(self, role: RoleName, buckets: Mapping[tuple[int, int], list[int]], fitting: list[tuple[int, int]]) -> int:
        """Best fit among the nodes (or racks) that hold least of the role."""
        place: Callable[[int], int] = (lambda node: node) if self._spread is Spread.NODE else (lambda node: self._ledger.lists.s0[node])
        seen = self._marked.setdefault(role, {})
        candidates = [(seen.get(place(node), 0), key, -i, node) for key in fitting for i, node in enumerate(buckets[key])]
        node = min(candidates)[3]
        seen[place(node)] = seen.get(place(node), 0) + 1
        return node

    def mark(self, role: RoleName, node: int) -> None:
        """A running instance of the role sits here, for `spread`."""
        place = node if self._spread is Spread.NODE else self._ledger.lists.s0[node]
        seen = self._marked.setdefault(role, {})
        seen[place] = seen.get(place, 0) + 1

    def hold(self, node: int, gpus: int) -> None:
        """GPUs that were given away elsewhere."""
        self._set(node, self.free[node] - gpus)

    def _give(self, nodes: Mapping[int, int]) -> None:
        for node, gpus in nodes.items():
            self._set(node, self.free[node] + gpus)

    def _set(self, node: int, free: int) -> None:
        bucket = self._bucket(node)
        if bucket[-1] == node:
            bucket.pop()
        else:
            bucket.remove(node)
        self.free[node] = free
        self._bucket(node).append(node)

    def _bucket(self, node: int) -> list[int]:
        ledger = self._ledger
        return self._buckets.setdefault(ledger.lists.type[node], {}).setdefault((self.free[node], ledger.lists.gpus[node]), [])

    def _order(self) -> list[int]:
        """Nodes so that the last of each bucket is in the fullest s0, then first by path."""
        s0_of = self._ledger.lists.s0
        if self.free and s0_of[min(self.free)] == s0_of[max(self.free)]:  # an s0 is one range of nodes
            return list(reversed(self.free))
        racks: dict[int, int] = {}
        for node, free in self.free.items():
            racks[s0_of[node]] = racks.get(s0_of[node], 0) + free
        return sorted(self.free, key=lambda node: (racks[s0_of[node]], node), reverse=True)
