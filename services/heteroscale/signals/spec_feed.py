"""specs.v1 as the signals service follows it: read to its end before the first effect, then onwards. No group, no commits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from heteroscale.bus import scan
from heteroscale.bus.dead_letters import Guard
from heteroscale.bus.log import Log, Reader, Record
from heteroscale.contracts import codec, keys
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.spec import ServiceSpec


class SpecChange(NamedTuple):
    """A revision, or a tombstone (null), with the record's own instant."""

    service: ServiceName
    spec: ServiceSpec | None
    at_ms: int


class SpecFeed:
    """All changes so far, in the order they were written."""

    def __init__(self, log: Log, topic: str, guard: Guard) -> None:
        self.changes: list[SpecChange] = []
        self._log = log
        self._topic = topic
        self._guard = guard
        self._reader: Reader | None = None

    async def catch_up(self) -> None:
        """Read to the end as it is now. Raises Retryable, Broken."""
        if self._reader is None:
            partitions = await scan.partitions_of(self._log, [self._topic])
            self._reader = self._log.reader(await self._log.begin_offsets(partitions))
        ends = await self._log.end_offsets(self._reader.positions())
        while any(self._reader.positions()[at] < end for at, end in ends.items()):
            await self.follow(timeout_ms=200)

    async def follow(self, heard: Callable[[SpecChange], None] | None = None, *, timeout_ms: int = 0) -> None:
        """Take what has come since; `heard` is told of each change."""
        if self._reader is None:
            return
        for record in await self._reader.poll(timeout_ms=timeout_ms):
            change = await self._read(record)
            if change is not None:
                self.changes.append(change)
                if heard is not None:
                    heard(change)

    async def close(self) -> None:
        """Let go of the reader."""
        if self._reader is not None:
            await self._reader.close()
            self._reader = None

    async def _read(self, record: Record) -> SpecChange | None:
        if record.key is None:
            await self._guard.refuse(record, [Rejected("no_key", "a spec without its service as key")])
            return None
        service = keys.service_of(record.key)
        if record.value is None:
            return SpecChange(service, None, record.timestamp_ms)
        spec = await self._guard.use(record, _sound)
        return None if spec is None else SpecChange(service, spec, record.timestamp_ms)


def _sound(payload: bytes) -> ServiceSpec:
    """A spec whose window can be worked with. Raises Rejected."""
    spec = codec.decode(ServiceSpec, payload)
    window = spec.window
    if min(window.size.ms, window.hop.ms, window.interval.ms) <= 0 or window.size.ms % window.hop.ms:
        raise Rejected("invalid", "window: size must be a positive multiple of hop, interval positive")
    return spec
