"""A fleet's cycles as its placements tell them, and the inventory they ran against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from heteroscale.contracts.names import FleetName, GangId, NodeName, ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.placement.inventory.gang import Gang, Verdict
from heteroscale.placement.inventory.gang import Outcome as GangOutcome
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.replay.recorded import Found, Recorded

Output = tuple[ServiceName, bool, int]  # service, dry run, seq (of a dry run: at_ms)


@dataclass(slots=True)
class Cycle:
    """What one cycle wrote, and the cut it had read."""

    gen: int
    number: int
    cut: Mapping[str, int]
    outputs: dict[Output, Found[Placement]] = field(default_factory=dict)

    @property
    def at_ms(self) -> int:
        """The cycle's instant."""
        return max(found.message.at_ms for found in self.outputs.values())

    def conflicts(self) -> dict[GangId, NodeName | None]:
        """Gangs that the inventory refused then."""
        return {
            GangId(conflict.gang): conflict.node
            for found in self.outputs.values()
            if found.message.inputs is not None
            for conflict in found.message.inputs.conflicts
        }


class RecordedInventory(MemoryInventory):
    """The inventory in memory, which refuses what the real one refused."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: dict[GangId, NodeName | None] = {}

    async def apply(self, gangs: Sequence[Gang]) -> list[GangOutcome]:
        """As the memory inventory, after the recorded refusals."""
        found: list[GangOutcome] = []
        for gang in gangs:
            if gang.id in self.refusals:
                found.append(GangOutcome(verdict=Verdict.CONFLICT, node=self.refusals.pop(gang.id)))
            else:
                found += await super().apply([gang])
        return found


def cycles(recorded: Recorded, fleet: FleetName) -> Iterator[Cycle]:
    """A fleet's cycles as far as they left outputs, in order. Repeated records count once: readers know a service's by their seq."""
    now: Cycle | None = None
    last: dict[tuple[int, ServiceName, bool], int] = {}
    for one in recorded.placements_by_cycle(fleet):
        placement, inputs = one.message, one.message.inputs
        if inputs is None:
            continue
        key: Output = (placement.service, placement.dry_run, placement.at_ms if placement.seq is None else placement.seq)
        lane = (placement.gen, placement.service, placement.dry_run)
        if key[2] <= last.get(lane, -1):
            continue
        last[lane] = key[2]
        if now is None or (now.gen, now.number) != (placement.gen, inputs.cycle):
            if now is not None:
                yield now
            now = Cycle(placement.gen, inputs.cycle, inputs.cut)
        now.outputs[key] = one
    if now is not None:
        yield now
