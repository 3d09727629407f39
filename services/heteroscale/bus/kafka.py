"""The log on Apache Kafka, over aiokafka: the only modules that know it are this one and its kafka_* parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from heteroscale.bus.kafka_admin import KafkaAdmin
from heteroscale.bus.kafka_member import KafkaMember, Membership
from heteroscale.bus.kafka_producer import KafkaProducer
from heteroscale.bus.kafka_reader import KafkaReader
from heteroscale.bus.log import AssignedHook, Entry, Member, Reader, RevokedHook, TopicPartition
from heteroscale.bus.settings import BusSettings


class KafkaLog(KafkaAdmin):
    """A Log on Kafka: the administration, and what goes in and out.

    Connections are made when first needed and anew after errors, so it may be built while Kafka is away.
    """

    def __init__(self, settings: BusSettings) -> None:
        super().__init__(settings)
        self._producer = KafkaProducer(settings)

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append in order and wait until durable. Raises Retryable (outcome unknown: append the same again), Rejected, Broken."""
        await self.require(entry.topic for entry in entries)
        return await self._producer.append(entries)

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        """A reader that starts at `positions`; it connects at its first poll."""
        return KafkaReader(self._settings, positions)

    async def join(
        self,
        group: str,
        topics: Iterable[str],
        *,
        on_assigned: AssignedHook | None = None,
        on_revoked: RevokedHook | None = None,
    ) -> Member:
        """Join a consumer group; see the protocol for when hooks run."""
        names = tuple(sorted(set(topics)))
        await self.require(names)
        member = KafkaMember(self._settings, Membership(group, names, on_assigned, on_revoked))
        await member.start()
        return member

    async def close(self) -> None:
        """Flush and let go; bounded in time."""
        await self._producer.close()
        await super().close()
