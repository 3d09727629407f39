"""Who has no work left, told by telemetry: looked at only while something is to stop."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from heteroscale.bus import partitioning, scan
from heteroscale.bus.log import Log, Reader
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.names import InstanceName, ServiceName
from heteroscale.contracts.telemetry import InstanceSample, Samples, TelemetryRecord
from heteroscale.contracts.topics import Topic, topic_name

POLL_MS: Final = 50
BATCHES_MAX: Final = 20  # a look must end, however much is said meanwhile


class Drains:
    """Follows telemetry.v1 of services that drain, from the moment they are first asked about."""

    def __init__(self, log: Log, prefix: str) -> None:
        self._log = log
        self._topic = topic_name(prefix, Topic.TELEMETRY)
        self._readers: dict[ServiceName, Reader] = {}
        self._newest: dict[ServiceName, dict[InstanceName, InstanceSample]] = {}

    async def idle(self, service: ServiceName, instances: Collection[InstanceName]) -> frozenset[InstanceName]:
        """Those of `instances` whose newest sample since they were first asked about has nothing running or waiting."""
        if not instances:
            await self._let_go(service)
            return frozenset()
        try:
            await self._read(service)
        except Retryable:
            await self._let_go(service)
        newest = self._newest.get(service, {})
        return frozenset(name for name in instances if (one := newest.get(name)) is not None and one.running == 0 and not one.waiting)

    async def close(self) -> None:
        """Let go of all readers."""
        for service in list(self._readers):
            await self._let_go(service)

    async def _read(self, service: ServiceName) -> None:
        if service not in self._readers:
            places = await scan.partitions_of(self._log, [self._topic])
            home = places[partitioning.partition_of(service.encode(), len(places))]
            self._readers[service] = self._log.reader(await self._log.end_offsets([home]))
        for _ in range(BATCHES_MAX):
            records = await self._readers[service].poll(timeout_ms=POLL_MS)
            if not records:
                return
            for record in records:
                if record.key == service.encode() and record.value is not None:
                    self._fold(service, record.value)

    def _fold(self, service: ServiceName, value: bytes) -> None:
        try:
            found: TelemetryRecord = codec.decode(TelemetryRecord, value)  # type: ignore[arg-type] # a union is decoded like a type
        except Rejected:
            return  # signals makes it a dead letter
        if isinstance(found, Samples):
            newest = self._newest.setdefault(service, {})
            for one in found.samples:
                if one.instance not in newest or one.at_ms >= newest[one.instance].at_ms:
                    newest[one.instance] = one

    async def _let_go(self, service: ServiceName) -> None:
        reader = self._readers.pop(service, None)
        self._newest.pop(service, None)
        if reader is not None:
            await reader.close()
