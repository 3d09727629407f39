"""Capacity in closed form, where the necessary conditions are also sufficient.

They are where every role is one instance a replica, sizes divide one another on all types that a role may take, and roles
share all of their types or none: best fit then wastes nothing, and whole-node instances only round within an s1.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.fits import View
from heteroscale.placement.planning.units import Needs, Shape


@dataclass(frozen=True, slots=True)
class Room:
    """Linear limits on counts: for each, the sum of `use` times count is at most `limit`."""

    limits: tuple[tuple[int, Mapping[RoleName, int]], ...]

    def times(self, more: Mapping[RoleName, int], given: Mapping[RoleName, int]) -> int:
        """How often `more` fits beside what is given."""
        most = 1 << 30
        for limit, use in self.limits:
            each = sum(use.get(role, 0) * count for role, count in more.items())
            if each:
                most = min(most, (limit - sum(use.get(role, 0) * count for role, count in given.items())) // each)
        return max(0, most)


def room_in(view: View, shapes: Mapping[RoleName, Shape], place: tuple[Level, int]) -> Room | None:
    """The limits of a domain; None where they would not be exact."""
    if not shapes or not all(_plain(view, shape) for shape in shapes.values()):
        return None
    first, last = view.ledger.range_of(*place)
    limits: list[tuple[int, Mapping[RoleName, int]]] = []
    for types in {frozenset(code for _, code in shape.types) for shape in shapes.values()}:
        inside = {role: shape for role, shape in shapes.items() if types & {code for _, code in shape.types}}
        if any({code for _, code in shape.types} != types for shape in inside.values()):
            return None
        least = min(types)
        sizes = {role: view.ledger.effective(least, shape.largest) for role, shape in inside.items()}
        ordered = sorted(set(sizes.values()))
        if any(larger % smaller for smaller, larger in itertools.pairwise(ordered)):
            return None
        for size in ordered:
            limit = sum(int(view.slots(code, size)[first:last].sum()) for code in types)
            limits.append((limit, {role: other // size for role, other in sizes.items() if other >= size}))
    return Room(tuple(limits))


def _plain(view: View, shape: Shape) -> bool:
    """One instance a replica, on types whose nodes have one size, whole nodes inside an s1."""
    sizes = [view.ledger.sizes(code) for _, code in shape.types]
    if not shape.simple or not sizes or any(found != sizes[0] or len(found) > 1 for found in sizes):
        return False
    return shape.largest <= sizes[0][0] or shape.within is Level.S1


def most_given(room: Room, unit: Mapping[RoleName, int], roles: list[RoleName]) -> Needs:
    """As many units as fit, then what fits of one more, evenly, then more of each role until none fits."""
    given = {role: share * room.times(unit, {}) for role, share in unit.items()} if unit else {}
    for _ in range(sum(unit.values())):
        fitting = [role for role in sorted(unit) if room.times({role: 1}, given)]
        if not fitting:
            break
        given[min(fitting, key=lambda role: given[role] / unit[role])] += 1
    for role in roles:
        given[role] = given.get(role, 0) + room.times({role: 1}, given)
    return {role: given.get(role, 0) for role in roles}
