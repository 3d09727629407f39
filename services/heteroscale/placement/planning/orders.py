"""Other orders for a cycle in which something failed: who comes first among its equals, and who takes only a part at first.

Requests are placed one after another, so what comes early may take the GPUs without which two others do not fit. A cycle
is therefore planned again in a few other orders, and the one that places most stands. Chooses orders; plans nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from heteroscale.contracts.names import ServiceName
from heteroscale.placement.planning.model import Planned

REQUESTS_MAX: Final = 32
"""Cycles with more requests than this are not planned in another order."""

ORDERS_MAX: Final = 2
"""Other orders tried for one cycle."""

SMALL_CYCLE: Final = 8
"""Up to so many requests, every service is tried as the first among its equals, and in parts."""

PARTS_MAX: Final = 24
"""Orders in which one service takes a part at first, tried for one small cycle."""


class Order(NamedTuple):
    """Services in `first` come before others of their priority. `early` takes `units` in its turn, the rest after its equals."""

    first: frozenset[ServiceName] = frozenset()
    early: ServiceName | None = None
    units: int = 0


def others(answers: Sequence[Planned], units: dict[ServiceName, int]) -> list[Order]:
    """Orders worth trying, where something failed and something else took GPUs. `units`: services that may come in parts, and how many."""
    real = [one for one in answers if not one.dry_run]
    failed = sorted({one.service for one in real if one.shortfall})
    names = sorted({one.service for one in real})
    if not failed or not 1 < len(names) <= REQUESTS_MAX or not any(one.taken for one in real):
        return []
    firsts = [frozenset(failed), *(frozenset({name}) for name in [*failed, *names])]
    found = [Order(first) for first in dict.fromkeys(firsts)]
    if len(names) > SMALL_CYCLE:
        return found[:ORDERS_MAX]
    return [*found, *islice(dict.fromkeys(_in_parts(failed, names, units)), PARTS_MAX)]


def _in_parts(failed: list[ServiceName], names: list[ServiceName], units: dict[ServiceName, int]) -> Iterator[Order]:
    """One unit less for each, then two, and so on: first of all, or in its turn."""
    for less in range(1, max(units.values(), default=0)):
        for name in names:
            if units.get(name, 0) > less:
                yield Order(frozenset({name}), name, units[name] - less)
                yield Order(frozenset(failed), name, units[name] - less)
