"""What a request asks for, in planner terms: the shape of one replica of each role, and the unit that serves on its own.

Pure arithmetic on counts. Knows GPU types by their index in the topology, and nothing of domains.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from heteroscale.contracts.commands import Command, CommandRole
from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Affinity, AffinityMode, Level, Partial, Spread
from heteroscale.placement.planning.memo import Memo
from heteroscale.placement.planning.topology import CLUSTER, S0, S1

Needs: TypeAlias = dict[RoleName, int]
"""Replicas per role; only roles that lack something."""


class Piece(msgspec.Struct, frozen=True):
    """One instance of a replica: a part of it, or all of it (`part` null)."""

    part: str | None
    gpus: int


class Shape(msgspec.Struct, frozen=True):
    """One replica of a role. `types`: (rank, type) preferred first, only types that the fleet has; all pieces get one type.

    `within`: the level that holds all pieces of a replica, and all nodes of an instance larger than a node.
    """

    role: RoleName
    pieces: tuple[Piece, ...]
    types: tuple[tuple[int, int], ...]
    within: Level
    gpus: int

    @property
    def simple(self) -> bool:
        """One instance a replica."""
        return len(self.pieces) == 1 and self.pieces[0].part is None

    @property
    def largest(self) -> int:
        """GPUs of its largest piece."""
        return self.pieces[0].gpus

    @property
    def alike(self) -> bool:
        """No type is preferred to another."""
        return len({rank for rank, _ in self.types}) < 2


@dataclass(frozen=True, slots=True)
class Demand:
    """A command in planner terms. `unit`: the ratio in lowest terms, only roles of the ratio.

    `key` tells apart what wants other seats; `memo` is shared by all demands of a key.
    """

    key: Hashable
    memo: Memo
    shapes: Mapping[RoleName, Shape]
    unit: Mapping[RoleName, int]
    level: Level
    widest: Level
    prefer: Level
    whole: bool
    spread: Spread

    @classmethod
    def of(cls, command: Command, types: Mapping[str, int], memos: dict[Hashable, Memo]) -> Demand:
        """The demand of a command on a fleet with these GPU types (name to index); equal demands share one of its memos."""
        affinity = command.affinity or Affinity()
        preferred = affinity.mode is AffinityMode.PREFERRED
        shapes = {name: _shape(name, role, types) for name, role in sorted(command.roles.items())}
        unit = _unit(command)
        key = tuple(shapes.values()), tuple(unit.items()), command.spread
        memo = memos.get(key)
        if memo is None:
            memo = memos[key] = Memo()
        return cls(
            key=key,
            memo=memo,
            shapes=shapes,
            unit=unit,
            level=affinity.level if affinity.level is not S0 else S1,
            widest=CLUSTER if preferred else affinity.level,
            prefer=command.prefer or affinity.level,
            whole=command.partial is Partial.NONE,
            spread=command.spread,
        )

    def units_in(self, needs: Mapping[RoleName, int]) -> int:
        """How many whole units the needs hold."""
        return min((needs.get(role, 0) // share for role, share in self.unit.items()), default=0)

    def times(self, count: int) -> Needs:
        """The needs of `count` units."""
        return {role: share * count for role, share in self.unit.items()} if count else {}

    def wanted_at_once(self, needs: Needs) -> Needs:
        """What a domain must hold to be of use: one unit, or all that is needed if it comes whole or is less than a unit."""
        return needs if self.whole or not self.units_in(needs) else self.times(1)

    def opens(self, needs: Mapping[RoleName, int]) -> bool:
        """Whether the needs may open a group: every role of the ratio is in them."""
        for role in self.unit:
            if needs.get(role, 0) <= 0:
                return False
        return bool(self.unit)


def subtract(needs: Mapping[RoleName, int], less: Mapping[RoleName, int]) -> Needs:
    """What is left of the needs; roles that lack nothing go."""
    left = {role: count - less.get(role, 0) for role, count in needs.items()}
    return {role: count for role, count in left.items() if count > 0}


def _shape(name: RoleName, role: CommandRole, types: Mapping[str, int]) -> Shape:
    if role.gpu_types:
        known = tuple([(rank, types[choice.type]) for rank, choice in enumerate(role.gpu_types) if choice.type in types])
    else:
        known = tuple((0, code) for code in sorted(types.values()))
    if not role.parts:
        return Shape(role=name, pieces=(Piece(None, role.gpus),), types=known, within=role.within or S1, gpus=role.gpus)
    pieces = tuple(Piece(part, spec.gpus) for part, spec in sorted(role.parts.items()) for _ in range(spec.count))
    ordered = tuple(sorted(pieces, key=lambda piece: (-piece.gpus, piece.part or "")))
    return Shape(role=name, pieces=ordered, types=known, within=role.within or S1, gpus=sum(piece.gpus for piece in pieces))


def _unit(command: Command) -> dict[RoleName, int]:
    """The ratio over the command's roles, else the counts asked for, in lowest terms."""
    ratio = command.ratio if command.ratio is not None else {name: role.replicas for name, role in command.roles.items()}
    shares = {name: share for name, share in sorted(ratio.items()) if share > 0 and name in command.roles}
    divisor = math.gcd(*shares.values()) if shares else 1
    return {name: share // divisor for name, share in shares.items()}
