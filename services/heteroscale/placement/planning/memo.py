"""What follows from a demand on a fleet of one shape, whatever is free there: worked out at the first question, kept with the topology.

Only sizes, types and counts go in, so a memo is true for as long as the topology is, and a cycle may find it warm or cold.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from heteroscale.contracts.names import RoleName

NeedsKey: TypeAlias = frozenset[tuple[RoleName, int]]
"""Replicas per role, as a key."""

KEPT_MAX: Final = 10_000
"""Needs that all memos of a topology remember; above, all are forgotten (some 10 MB)."""


class Rule(NamedTuple):
    """Necessary: at least `need` slots of `gpus` on these types; one that goes elsewhere relieves it of `relief`."""

    types: frozenset[int]
    gpus: int
    need: int
    relief: int = 1


@dataclass(frozen=True, slots=True)
class Limit:
    """Exact: the sum of `use` times count is at most the slots of `gpus` on these types."""

    types: frozenset[int]
    gpus: int
    use: Mapping[RoleName, int]


class Limits(NamedTuple):
    """All limits of a demand. `uses`: by role, the limits that it counts in and how much one replica uses of each."""

    each: tuple[Limit, ...]
    uses: Mapping[RoleName, list[tuple[int, int]]]


@dataclass(slots=True, eq=False)
class Memo:
    """Answers for one demand. `firsts`: rules of preferred types; `orders`: role orders worth trying."""

    rules: dict[NeedsKey, tuple[Rule, ...]] = field(default_factory=dict)
    firsts: dict[NeedsKey, list[list[Rule]]] = field(default_factory=dict)
    orders: dict[frozenset[RoleName], tuple[tuple[RoleName, ...], ...]] = field(default_factory=dict)
    limits: Limits | None = None
    limits_known: bool = False


def trim(memos: dict[Hashable, Memo]) -> None:
    """Forget everything once it is too much."""
    if sum([1 + len(memo.rules) + len(memo.firsts) for memo in memos.values()]) > KEPT_MAX:
        memos.clear()
