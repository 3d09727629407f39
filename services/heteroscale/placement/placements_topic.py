"""placements.v1 as it stands: the newest real Placement of every service. Dry-run answers are not part of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from heteroscale.bus import scan
from heteroscale.bus.log import Log, Record, TopicPartition
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import FleetName, InstanceName, ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.placement.lineage import Lineage


class _Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """The cycle that a Placement is of."""

    cycle: int = 0


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """Just enough of a Placement to order it."""

    service: ServiceName
    fleet: FleetName
    gen: int
    seq: int | None = None
    dry_run: bool = False
    inputs: _Inputs | None = None


class _Groups(msgspec.Struct, frozen=True, kw_only=True):
    """What a Placement says of who is where, as bytes."""

    groups: msgspec.Raw = msgspec.Raw(b"[]")


class Newest(msgspec.Struct, frozen=True, kw_only=True):
    """A service's newest record: where it stands in the order, and its bytes."""

    fleet: FleetName
    gen: int
    seq: int
    payload: bytes

    def placement(self) -> Placement:
        """The whole record. Raises Rejected."""
        return codec.decode(Placement, self.payload)


class PlacementsTopic:
    """Read on demand; each `catch_up` goes on where the last one ended.

    `contested`: services of which two records of the newest (gen, seq) say different things; a newer record settles it.
    `cycles`: the highest cycle of each fleet, answers to dry runs included, which nothing else remembers.
    """

    def __init__(self, log: Log, topic: str) -> None:
        self._log = log
        self._topic: Final = topic
        self._positions: dict[TopicPartition, int] = {}
        self.newest: dict[ServiceName, Newest] = {}
        self.contested: set[ServiceName] = set()
        self.cycles: dict[FleetName, int] = {}

    async def catch_up(self) -> None:
        """Read to the end that the topic has now."""
        partitions = await scan.partitions_of(self._log, [self._topic])
        async for batch in scan.to_end(self._log, partitions, self._positions):
            for record in batch:
                self._positions[record.at] = record.offset + 1
                self._fold(record)

    def of(self, fleet: FleetName) -> dict[ServiceName, Newest]:
        """Newest records of a fleet's services."""
        return {service: found for service, found in sorted(self.newest.items()) if found.fleet == fleet}

    def elsewhere(self, fleet: FleetName) -> frozenset[ServiceName]:
        """Services of which the newest record is another fleet's."""
        return frozenset(service for service, found in self.newest.items() if found.fleet != fleet)

    def gen(self) -> int:
        """The highest generation seen, in any fleet."""
        return max((found.gen for found in self.newest.values()), default=0)

    def note(self, service: ServiceName, found: Newest) -> None:
        """A record that this process wrote itself."""
        known = self.newest.get(service)
        if known is None or (found.gen, found.seq) > (known.gen, known.seq):
            self.newest[service] = found
            self.contested.discard(service)
        elif (found.gen, found.seq) == (known.gen, known.seq) and _groups(found) != _groups(known):
            self.contested.add(service)

    async def every(self, fleet: FleetName, instances: Iterable[InstanceName]) -> dict[InstanceName, Placement]:
        """The newest Placement that lists each of these instances, from the whole history that is still on the log."""
        wanted = frozenset(instances)
        found: dict[InstanceName, Placement] = {}
        async for batch in scan.to_end(self._log, await scan.partitions_of(self._log, [self._topic])):
            for record in batch:
                placement = _whole(record, fleet)
                if placement is not None:
                    found |= {one.id: placement for group in placement.groups for one in group.instances if one.id in wanted}
        return found

    async def lineage(self, fleet: FleetName) -> Lineage:
        """Who stands in for whom in a fleet, from the whole history that is still on the log."""
        found = Lineage()
        async for batch in scan.to_end(self._log, await scan.partitions_of(self._log, [self._topic])):
            for placement in (_whole(record, fleet) for record in batch):
                if placement is not None:
                    found.fold(placement)
        return found

    def _fold(self, record: Record) -> None:
        if record.value is None or record.key is None:
            return
        try:
            head = codec.decode(_Head, record.value)
        except Rejected:
            return  # foreign bytes cannot be ours; readers of this topic are told by their own dead letters
        if head.inputs is not None:
            self.cycles[head.fleet] = max(head.inputs.cycle, self.cycles.get(head.fleet, 0))
        if head.seq is None or head.dry_run:
            return
        self.note(head.service, Newest(fleet=head.fleet, gen=head.gen, seq=head.seq, payload=record.value))


def _groups(found: Newest) -> bytes:
    return bytes(codec.decode(_Groups, found.payload).groups)


def _whole(record: Record, fleet: FleetName) -> Placement | None:
    if record.value is None:
        return None
    try:
        placement = codec.decode(Placement, record.value)
    except Rejected:
        return None
    return placement if placement.fleet == fleet and not placement.dry_run else None
