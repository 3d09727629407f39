"""Capacity in closed form, where the necessary conditions are also sufficient.

They are where every role is one instance a replica, sizes divide one another on all types that a role may take, and roles
share all of their types or none: best fit then wastes nothing, and whole-node instances only round within an s1.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.fits import View
from heteroscale.placement.planning.ledger import Ledger
from heteroscale.placement.planning.memo import Limit, Limits
from heteroscale.placement.planning.topology import S1
from heteroscale.placement.planning.units import Demand, Needs, Shape


class Room:
    """Linear limits on counts: for each, the sum of `use` times count is at most what is left of it."""

    def __init__(self, left: list[int], uses: Mapping[RoleName, Sequence[tuple[int, int]]]) -> None:
        self._left = left
        self._uses = uses

    def units(self, unit: Mapping[RoleName, int]) -> int:
        """How often a unit still fits."""
        each = [0] * len(self._left)
        for role, share in unit.items():
            for at, use in self._uses.get(role, ()):
                each[at] += use * share
        return min([left // used for left, used in zip(self._left, each, strict=True) if used], default=0)

    def replicas(self, role: RoleName) -> int:
        """How many more of one role fit."""
        uses = self._uses.get(role)
        if not uses:
            return 0
        if len(uses) == 1:
            at, each = uses[0]
            return self._left[at] // each
        return min([self._left[at] // each for at, each in uses])

    def give(self, role: RoleName, count: int) -> None:
        """So many of a role are in."""
        for at, each in self._uses.get(role, ()):
            self._left[at] -= each * count


def room_in(view: View, demand: Demand, place: tuple[Level, int], returned: Mapping[int, int]) -> Room | None:
    """The limits of a domain, were the GPUs of `returned` (all of them in it) given back; None where they would not be exact."""
    memo = demand.memo
    if not memo.limits_known:
        memo.limits, memo.limits_known = _limits(view.ledger, demand.shapes), True
    if memo.limits is None:
        return None
    first, last = view.ledger.range_of(*place)
    left = [
        int(np.add.reduce(view.slots_over(limit.types, limit.gpus)[first:last])) + view.ledger.gained(limit.types, limit.gpus, returned)
        for limit in memo.limits.each
    ]
    return Room(left, memo.limits.uses)


def _limits(ledger: Ledger, shapes: Mapping[RoleName, Shape]) -> Limits | None:
    if not shapes or not all(_plain(ledger, shape) for shape in shapes.values()):
        return None
    codes = {role: frozenset(code for _, code in shape.types) for role, shape in shapes.items()}
    limits: list[Limit] = []
    for types in sorted(set(codes.values()), key=sorted):
        inside = [role for role in shapes if types & codes[role]]
        if any(codes[role] != types for role in inside):
            return None
        least = min(types)
        sizes = {role: ledger.effective(least, shapes[role].largest) for role in inside}
        ordered = sorted(set(sizes.values()))
        if any(larger % smaller for smaller, larger in itertools.pairwise(ordered)):
            return None
        limits.extend(Limit(types, size, {role: other // size for role, other in sizes.items() if other >= size}) for size in ordered)
    uses: dict[RoleName, list[tuple[int, int]]] = {}
    for at, limit in enumerate(limits):
        for role, each in limit.use.items():
            uses.setdefault(role, []).append((at, each))
    return Limits(tuple(limits), uses)


def _plain(ledger: Ledger, shape: Shape) -> bool:
    """One instance a replica, on types whose nodes have one size, whole nodes inside an s1."""
    sizes = [ledger.sizes(code) for _, code in shape.types]
    if not shape.simple or not sizes or any(found != sizes[0] or len(found) > 1 for found in sizes):
        return False
    return shape.largest <= sizes[0][0] or shape.within is S1


def most_given(room: Room, unit: Mapping[RoleName, int], roles: list[RoleName]) -> Needs:
    """As many units as fit, then what fits of one more, evenly, then more of each role until none fits."""
    units = room.units(unit)
    given = {role: share * units for role, share in unit.items()}
    for role, count in given.items():
        room.give(role, count)
    for _ in range(sum(unit.values())):
        fitting = [role for role in unit if room.replicas(role)]
        if not fitting:
            break
        least = min(fitting, key=lambda role: (given[role] / unit[role], role)) if len(fitting) > 1 else fitting[0]
        room.give(least, 1)
        given[least] += 1
    for role in roles:
        more = room.replicas(role)
        if more:
            room.give(role, more)
            given[role] = given.get(role, 0) + more
    return {role: given.get(role, 0) for role in roles}
