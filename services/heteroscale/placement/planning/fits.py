"""Necessary conditions, as vectors over the s1: which domains can possibly hold the needs, and how many units at most.

For every set of GPU types U that some roles are confined to and every instance size g: the instances of at least g that must
lie on U use up at least floor(size / g) slots of g each, and U has so many slots. Where sizes divide one another and all
roles share their types this is exact (best fit wastes nothing); elsewhere it prunes, and the fill decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.ledger import Condition, Ledger, Mask, Vector
from heteroscale.placement.planning.memo import Rule
from heteroscale.placement.planning.topology import CLUSTER, S2
from heteroscale.placement.planning.units import Demand, Shape

Wanted: TypeAlias = list[tuple[Shape, int]]
"""Replicas by shape."""


@dataclass(frozen=True, slots=True)
class View:
    """The ledger as one request may see it: `banned[type]` marks the s1 where this type is held back for another."""

    ledger: Ledger
    banned: Mapping[int, Mask]

    def slots(self, gpu_type: int, gpus: int) -> Vector:
        """As Ledger.slots, without what is held back."""
        slots = self.ledger.slots(gpu_type, gpus)
        mask = self.banned.get(gpu_type)
        return slots if mask is None else np.where(mask, 0, slots)

    def slots_over(self, types: frozenset[int], gpus: int) -> Vector:
        """As Ledger.slots_over, without what is held back."""
        if self.banned and not types.isdisjoint(self.banned):
            found: Vector = np.add.reduce([self.slots(code, gpus) for code in types])
            return found
        return self.ledger.slots_over(types, gpus)

    def banned_in(self, s1: int) -> frozenset[int]:
        """GPU types held back in an s1."""
        return frozenset(gpu_type for gpu_type, mask in self.banned.items() if mask[s1]) if self.banned else frozenset()


def conditions(view: View, demand: Demand, needs: Mapping[RoleName, int]) -> list[Condition]:
    """All conditions of the needs, the widest and finest last; one that nothing satisfies if a role has no GPU type here."""
    key = frozenset(needs.items())
    rules = demand.memo.rules.get(key)
    if rules is None:
        rules = demand.memo.rules[key] = _rules_of(
            view.ledger, [(demand.shapes[role], count) for role, count in needs.items() if count > 0]
        )
    if view.banned:
        return _conditions(view, rules)
    known = view.ledger.conditions.get(rules)
    if known is None:
        known = view.ledger.conditions[rules] = _conditions(view, rules)
    return known


def _conditions(view: View, rules: tuple[Rule, ...]) -> list[Condition]:
    if any(not rule.types for rule in rules):
        return [Condition(np.zeros(view.ledger.pools, dtype=np.int64), 1, 1)]
    return [Condition(view.slots_over(rule.types, rule.gpus), rule.need, rule.gpus) for rule in rules]


def _rules_of(ledger: Ledger, wanted: Wanted) -> tuple[Rule, ...]:
    """What every set of types that roles are confined to must hold; a rule without types if a role has none."""
    if any(not shape.types for shape, _ in wanted):
        return (Rule(frozenset(), 1, 1),)
    sets = {frozenset(code for _, code in shape.types) for shape, _ in wanted}
    sets.add(frozenset[int]().union(*sets))
    found: list[Rule] = []
    for types in sorted(sets, key=lambda codes: (len(codes), sorted(codes))):
        inside = [(shape, count) for shape, count in wanted if {code for _, code in shape.types} <= types]
        found.extend(_of_types(ledger, types, inside))
    return tuple(found)


def _of_types(ledger: Ledger, types: frozenset[int], inside: Wanted) -> list[Rule]:
    items: dict[int, int] = {}
    for shape, count in inside:
        for piece in shape.pieces:
            whole = min(ledger.effective(code, piece.gpus) for code in types)
            largest = max(ledger.sizes(code)[-1] for code in types)
            wide = shape.within in (S2, CLUSTER) and piece.gpus > largest
            size = min(ledger.sizes(code)[0] for code in types) if wide else piece.gpus
            items[size] = items.get(size, 0) + (count * (whole // size) if wide else count)
    return [
        Rule(types, size, sum(count * (other // size) for other, count in items.items() if other >= size))
        for size in sorted(items, reverse=True)
    ]


def holds(ledger: Ledger, found: list[Condition], level: Level, mask: Mask | None = None) -> Mask:
    """Which domains of a level satisfy all conditions, counting only the s1 of the mask."""
    verdict: Mask | None = None
    for condition in found:
        slots = condition.slots if mask is None else np.where(mask, condition.slots, 0)
        passed = ledger.over(level, slots) >= condition.need
        verdict = passed if verdict is None else verdict & passed
    return np.ones(len(ledger.topology.levels[level]), dtype=bool) if verdict is None else verdict


def units_at_most(ledger: Ledger, found: list[Condition], level: Level) -> Vector:
    """How often each domain of a level could hold the needs that the conditions were made of, at most."""
    bound: Vector | None = None
    for condition in found:
        units = ledger.over(level, condition.slots) // max(1, condition.need)
        bound = units if bound is None else np.minimum(bound, units)
    return np.zeros(len(ledger.topology.levels[level]), dtype=np.int64) if bound is None else bound


def elsewhere(view: View, demand: Demand, needs: Mapping[RoleName, int], level: Level, mask: Mask | None = None) -> Vector | None:
    """At least so many replicas of the needs must take a less preferred type, per domain of a level; None if all types are alike."""
    ledger = view.ledger
    key = frozenset(needs.items())
    firsts = demand.memo.firsts.get(key)
    if firsts is None:
        firsts = demand.memo.firsts[key] = _firsts(ledger, demand, needs)
    if not firsts:
        return None
    total = np.zeros(len(ledger.topology.levels[level]), dtype=np.int64)
    for rules in firsts:
        short = np.zeros_like(total)
        for rule in rules:
            slots = view.slots_over(rule.types, rule.gpus)
            lack = np.maximum(0, rule.need - ledger.over(level, slots if mask is None else np.where(mask, slots, 0)))
            short = np.maximum(short, lack if rule.relief == 1 else -(-lack // rule.relief))
        total = short if len(firsts) == 1 else total + short
    return total


def _firsts(ledger: Ledger, demand: Demand, needs: Mapping[RoleName, int]) -> list[list[Rule]]:
    """What each type must hold if all that prefer it, and it alone, are to have it; nothing where all types are alike."""
    shapes = demand.shapes
    if all(shapes[role].alike for role in needs):
        return []
    first: dict[int, Wanted] = {}
    for role, count in needs.items():
        types = shapes[role].types
        if types and (len(types) == 1 or types[1][0] > 0):
            first.setdefault(types[0][1], []).append((shapes[role], count))
    found: list[list[Rule]] = []
    for code, wanted in sorted(first.items()):
        rules = _of_types(ledger, frozenset({code}), wanted)
        found.append([rule._replace(relief=max(_slots_of(ledger, code, shape, rule.gpus) for shape, _ in wanted)) for rule in rules])
    return found


def _slots_of(ledger: Ledger, code: int, shape: Shape, gpus: int) -> int:
    """Slots of a size that one replica uses up."""
    return sum(max(1, ledger.effective(code, piece.gpus) // gpus) for piece in shape.pieces)
