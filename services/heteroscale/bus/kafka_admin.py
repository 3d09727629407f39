"""Laying out and looking up topics on Kafka. Clients connect when first needed, and anew after an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition as KafkaPartition

from heteroscale.bus import kafka_client, kafka_reader
from heteroscale.bus.kafka_client import bounded, translated
from heteroscale.bus.log import TopicLayout, TopicPartition
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.errors import Broken, Rejected, Retryable

T = TypeVar("T")

SETTLE_STEP_S: Final = 0.05
_TOPIC_OVERRIDE: Final = 1  # config_source of a value that was set on the topic itself
_MIN_ISR: Final = "min.insync.replicas"


class KafkaAdmin:
    """The part of a Log that lays out topics and looks up offsets."""

    def __init__(self, settings: BusSettings) -> None:
        self._settings = settings
        self._limit_ms = settings.request_timeout_ms
        self._admin: AIOKafkaAdminClient | None = None
        self._lookup: AIOKafkaConsumer | None = None
        self._connecting = asyncio.Lock()
        self._known: set[str] = set()

    async def require(self, topics: Iterable[str]) -> None:
        """Raises Broken for a topic that does not exist (looked up once each)."""
        unknown = sorted(set(topics) - self._known)
        if not unknown:
            return
        found = await self._partition_counts(unknown)
        for topic in unknown:
            if topic not in found:
                raise Broken(f"topic {topic} does not exist")
        self._known |= found.keys()

    async def create_topics(self, layouts: Iterable[TopicLayout]) -> list[str]:
        """Create what is missing and wait until it can be used. Rejected (`partition_count`) before anything is created."""
        wanted = {layout.name: layout for layout in layouts}
        existing = await self._partition_counts(sorted(wanted))
        for name, count in existing.items():
            _check_count(name, count, wanted[name].partitions)
        missing = [layout for name, layout in wanted.items() if name not in existing]
        if not missing:
            return []
        request = [self._new_topic(layout) for layout in missing]
        response: Any = await self._with_admin(lambda admin: admin.create_topics(request, timeout_ms=self._limit_ms), "creating topics")
        created = []
        for name, code, *message in response.topic_errors:
            kind = kafka_errors.for_code(code)
            if kind is kafka_errors.NoError:
                created.append(name)
            elif kind is not kafka_errors.TopicAlreadyExistsError:  # somebody else was quicker
                error = kind(*message)
                raise translated(error, f"creating topic {name}") from error
        await self._settled(lambda found: all(found.get(layout.name) == layout.partitions for layout in missing), [*wanted])
        return created

    async def describe_topics(self, names: Iterable[str] | None = None) -> dict[str, TopicLayout]:
        """Partitions, and the configuration that was set on the topic itself."""
        counts = await self._partition_counts(None if names is None else sorted(set(names)))
        if not counts:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in sorted(counts)]
        responses: list[Any] = await self._with_admin(lambda admin: admin.describe_configs(resources), "describing topics")
        configs: dict[str, dict[str, str]] = {}
        for response in responses:
            for _code, _message, _kind, name, entries in response.resources:
                configs[name] = {entry[0]: entry[1] for entry in entries if _is_override(entry)}
        return {name: TopicLayout(name, counts[name], configs.get(name, {})) for name in sorted(counts)}

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete, and wait until they are gone; one that does not exist is no error."""
        wanted = sorted(set(names))
        self._known -= set(wanted)
        present = sorted(await self._partition_counts(wanted)) if wanted else []
        if not present:
            return
        response: Any = await self._with_admin(lambda admin: admin.delete_topics(present, timeout_ms=self._limit_ms), "deleting topics")
        for name, code in response.topic_error_codes:
            kind = kafka_errors.for_code(code)
            if kind not in {kafka_errors.NoError, kafka_errors.UnknownTopicOrPartitionError}:
                error = kind()
                raise translated(error, f"deleting topic {name}") from error
        await self._settled(lambda found: not found, present)

    async def begin_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """First offset still held."""
        places = list(partitions)
        await self.require(at.topic for at in places)
        found = await self._with_lookup(lambda consumer: consumer.beginning_offsets(_native(places)), "looking up first offsets")
        return {at: found[KafkaPartition(*at)] for at in places}

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Next offset to be written."""
        places = list(partitions)
        await self.require(at.topic for at in places)
        found = await self._with_lookup(lambda consumer: consumer.end_offsets(_native(places)), "looking up end offsets")
        return {at: found[KafkaPartition(*at)] for at in places}

    async def offsets_for_time(self, at_ms: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
        """First offset at or after an instant."""
        await self.require(at.topic for at in at_ms)
        wanted = {KafkaPartition(*at): instant for at, instant in at_ms.items()}
        found = await self._with_lookup(lambda consumer: consumer.offsets_for_times(wanted), "looking up offsets by time")
        answers = {at: found.get(KafkaPartition(*at)) for at in at_ms}
        return {at: None if answer is None else answer.offset for at, answer in answers.items()}

    async def close(self) -> None:
        """Let go of the connections."""
        await self._drop_admin()
        await self._drop_lookup()

    def _new_topic(self, layout: TopicLayout) -> NewTopic:
        config = {_MIN_ISR: str(self._settings.min_isr), **layout.config} if self._settings.min_isr > 1 else dict(layout.config)
        return NewTopic(layout.name, layout.partitions, self._settings.replication_factor, topic_configs=config)

    async def _topics(self, names: list[str] | None) -> dict[str, list[dict[str, Any]]]:
        """The partitions, as the brokers describe them, of each topic that exists."""
        topics = await self._with_admin(lambda admin: admin.describe_topics(names), "listing topics")
        return {topic["topic"]: topic["partitions"] for topic in topics if topic["error_code"] == 0 and not topic["is_internal"]}

    async def _partition_counts(self, names: list[str] | None) -> dict[str, int]:
        return {name: len(partitions) for name, partitions in (await self._topics(names)).items()}

    async def _led(self, names: list[str]) -> dict[str, int]:
        """Partitions that have a leader, per existing topic."""
        return {name: sum(1 for one in partitions if one["leader"] >= 0) for name, partitions in (await self._topics(names)).items()}

    async def _settled(self, reached: Callable[[dict[str, int]], bool], names: list[str]) -> None:
        """Until the brokers agree. Raises Retryable."""
        try:
            async with asyncio.timeout(self._limit_ms / 1_000):
                while not reached(await self._led(names)):  # noqa: ASYNC110 - brokers do not announce it
                    await asyncio.sleep(SETTLE_STEP_S)
        except TimeoutError as error:
            raise Retryable(f"topics {', '.join(names)}: not settled within {self._limit_ms} ms") from error

    async def _with_admin(self, call: Callable[[AIOKafkaAdminClient], Awaitable[T]], doing: str) -> T:
        try:
            async with self._connecting:
                if self._admin is None:
                    self._admin = AIOKafkaAdminClient(**kafka_client.connection(self._settings))
                    await kafka_client.connected(self._admin.start(), self._settings)
                admin = self._admin
            return await bounded(call(admin), self._limit_ms, doing)
        except (Retryable, asyncio.CancelledError):
            await self._drop_admin()
            raise

    async def _with_lookup(self, call: Callable[[AIOKafkaConsumer], Awaitable[T]], doing: str) -> T:
        try:
            async with self._connecting:
                if self._lookup is None:
                    self._lookup = AIOKafkaConsumer(**kafka_client.connection(self._settings), enable_auto_commit=False)
                    await kafka_client.connected(self._lookup.start(), self._settings)
                lookup = self._lookup
            return await bounded(call(lookup), self._limit_ms, doing)
        except (Retryable, asyncio.CancelledError):
            await self._drop_lookup()
            raise

    async def _drop_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            await kafka_client.stopped(admin.close(), admin._client)  # noqa: SLF001 - close() alone waits for answers

    async def _drop_lookup(self) -> None:
        lookup, self._lookup = self._lookup, None
        if lookup is not None:
            await kafka_reader.discard(lookup)


def _check_count(name: str, existing: int, wanted: int) -> None:
    if existing != wanted:
        raise Rejected("partition_count", f"has {existing} partitions and needs {wanted}; delete it, or use another prefix", name)


def _native(partitions: Iterable[TopicPartition]) -> list[KafkaPartition]:
    return [KafkaPartition(*at) for at in partitions]


def _is_override(entry: tuple[Any, ...]) -> bool:
    """Whether a described value was set on the topic itself (the fields: name, value, read-only, source, …)."""
    return bool(entry[3] == _TOPIC_OVERRIDE)
