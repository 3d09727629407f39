"""The log on Apache Kafka, over aiokafka: the only modules that know it are this one and its kafka_* parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from heteroscale.bus.kafka_admin import KafkaAdmin
from heteroscale.bus.kafka_member import KafkaMember, Membership
from heteroscale.bus.kafka_producer import KafkaProducer
from heteroscale.bus.kafka_reader import KafkaReader
from heteroscale.bus.log import AssignedHook, Entry, Member, Reader, RevokedHook, TopicLayout, TopicPartition
from heteroscale.bus.settings import BusSettings


class KafkaLog:
    """A Log on Kafka. Connections are made when first needed and anew after errors, so it may be built while Kafka is away."""

    def __init__(self, settings: BusSettings) -> None:
        self._settings = settings
        self._admin = KafkaAdmin(settings)
        self._producer = KafkaProducer(settings)

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append in order and wait until durable. Raises Retryable (outcome unknown: append the same again), Rejected, Broken."""
        await self._admin.require(entry.topic for entry in entries)
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
        await self._admin.require(names)
        member = KafkaMember(self._settings, Membership(group, names, on_assigned, on_revoked))
        await member.start()
        return member

    async def begin_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """First offset still held."""
        return await self._admin.begin_offsets(list(partitions))

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Next offset to be written."""
        return await self._admin.end_offsets(list(partitions))

    async def offsets_for_time(self, at_ms: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
        """First offset whose timestamp is at or after the given instant; null if there is none."""
        return await self._admin.offsets_for_time(at_ms)

    async def create_topics(self, layouts: Iterable[TopicLayout]) -> list[str]:
        """Create those that do not exist; Rejected (`partition_count`) if one exists with another count."""
        return await self._admin.create(layouts)

    async def describe_topics(self, names: Iterable[str] | None = None) -> dict[str, TopicLayout]:
        """The topics there are (all, or those of `names` that exist)."""
        return await self._admin.describe(names)

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics; one that does not exist is no error."""
        await self._admin.delete(names)

    async def close(self) -> None:
        """Flush and let go; bounded in time."""
        await self._producer.close()
        await self._admin.close()
