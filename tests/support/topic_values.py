"""What stands on a topic, as it was written."""

from __future__ import annotations

from heteroscale.bus import scan
from heteroscale.bus.log import Log, TopicPartition
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name


async def values(log: Log, prefix: str, topic: Topic) -> list[bytes]:
    """All values of a topic, partition by partition; a tombstone is empty."""
    places = [TopicPartition(topic_name(prefix, topic), index) for index in range(CATALOGUE[topic].partitions)]
    return [record.value or b"" for at in places async for batch in scan.to_end(log, [at]) for record in batch]
