"""Who holds GPUs where, by s1 and GPU type: for telling whom a queued request waits for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from heteroscale.contracts.names import ServiceName

Spot = tuple[int, int]
"""An s1 and a GPU type."""


@dataclass(slots=True)
class Occupancy:
    """Holders of spots. What an owner holds is put as a whole, and again when it moves."""

    _spots: dict[int, frozenset[Spot]] = field(default_factory=dict)
    _at: dict[int, dict[int, dict[int, ServiceName]]] = field(default_factory=dict)

    def put(self, owner: int, service: ServiceName, spots: Iterable[Spot]) -> None:
        """The owner holds GPUs at these spots, and nowhere else."""
        for s1, gpu_type in self._spots.get(owner, ()):
            del self._at[s1][gpu_type][owner]
        self._spots[owner] = frozenset(spots)
        for s1, gpu_type in self._spots[owner]:
            self._at.setdefault(s1, {}).setdefault(gpu_type, {})[owner] = service

    def within(self, first: int, last: int, types: Iterable[int]) -> set[ServiceName]:
        """Services that hold GPUs of these types in a range of s1."""
        found: set[ServiceName] = set()
        wanted = list(types)
        for s1 in range(first, last):
            here = self._at.get(s1)
            if here:
                for gpu_type in wanted:
                    found.update(here.get(gpu_type, {}).values())
        return found
