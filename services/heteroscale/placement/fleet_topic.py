"""fleet.v1 as it stands: the newest record of every node, per fleet, read by direct assignment from the beginning."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Final

from heteroscale.bus.log import Log, Reader, Record, TopicPartition
from heteroscale.contracts import codec, keys
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.names import FleetName, NodeName
from heteroscale.placement.nodes import NodeChange

PATIENCE_POLLS: Final = 20
POLL_MS: Final = 500


class FleetTopic:
    """Follows fleet.v1. `newest` is complete up to `position`."""

    def __init__(self, log: Log, topic: str) -> None:
        self.at: Final = TopicPartition(topic, 0)
        self._log = log
        self._reader: Reader = log.reader({self.at: 0})
        self._newest: dict[FleetName, dict[NodeName, NodeChange]] = {}
        self._rejected: list[tuple[Record, Rejected]] = []

    @property
    def position(self) -> int:
        """Next offset to be read."""
        return self._reader.positions()[self.at]

    @property
    def fleets(self) -> list[FleetName]:
        """Fleets that have or had nodes."""
        return sorted(self._newest)

    def newest(self, fleet: FleetName) -> Mapping[NodeName, NodeChange]:
        """The newest record of each node of a fleet, tombstones included."""
        return self._newest.get(fleet, {})

    async def poll(self, timeout_ms: int) -> set[FleetName]:
        """Read on; returns the fleets that changed."""
        return self._fold(await self._reader.poll(timeout_ms=timeout_ms))

    async def catch_up(self) -> set[FleetName]:
        """Read to the end that the topic has now. Raises Retryable if it does not come."""
        end = (await self._log.end_offsets([self.at]))[self.at]
        changed: set[FleetName] = set()
        idle = 0
        while self.position < end:
            before = self.position
            changed |= await self.poll(POLL_MS)
            idle = idle + 1 if self.position == before else 0
            if idle > PATIENCE_POLLS:
                raise Retryable(f"{self.at} does not go on at {before} (end {end})")
        return changed

    def drain_rejected(self) -> Generator[tuple[Record, Rejected], None, None]:
        """Records that could not be used; each is let go when the next is asked for, so a caller that fails meets it again."""
        while self._rejected:
            yield self._rejected[0]
            del self._rejected[0]

    async def close(self) -> None:
        """Let go."""
        await self._reader.close()

    def _fold(self, records: list[Record]) -> set[FleetName]:
        changed: set[FleetName] = set()
        for record in records:
            try:
                change, fleet = _change(record)
            except Rejected as error:
                self._rejected.append((record, error))
                continue
            self._newest.setdefault(fleet, {})[change.node] = change
            changed.add(fleet)
        return changed


def _change(record: Record) -> tuple[NodeChange, FleetName]:
    fleet, node = keys.node_of(record.key)
    if not fleet or not node:
        raise Rejected("key", "the key is to be FLEET/NODE")
    if record.value is None:
        return NodeChange(node=node, record=None, revision=record.offset), fleet
    value = codec.decode(FleetNode, record.value)
    if (value.fleet, value.node) != (fleet, node):
        raise Rejected("key", f"the key says {fleet}/{node}, the value {value.fleet}/{value.node}")
    return NodeChange(node=node, record=value, revision=record.offset), fleet
