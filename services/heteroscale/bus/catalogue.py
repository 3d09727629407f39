"""The topics of the catalogue on a log: created where missing, checked where present, deleted with their prefix."""

from __future__ import annotations

from collections.abc import Iterable

from heteroscale.bus.log import Log, TopicLayout
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import CATALOGUE, Topic, TopicSpec


def layout_of(spec: TopicSpec, prefix: str, *, keep_forever: bool = False) -> TopicLayout:
    """How a topic of the catalogue is laid out under a prefix."""
    return TopicLayout(spec.name(prefix), spec.partitions, spec.config(keep_forever=keep_forever))


async def create(log: Log, prefix: str, *, keep_forever: bool = False, topics: Iterable[Topic] | None = None) -> list[str]:
    """Create what is missing (of `topics`, else all); the names created.

    `keep_forever` is for simulated time. Raises Rejected (`partition_count`) if a topic exists with another count, before anything
    is created.
    """
    wanted = CATALOGUE if topics is None else {topic: CATALOGUE[topic] for topic in topics}
    return await log.create_topics(layout_of(spec, prefix, keep_forever=keep_forever) for spec in wanted.values())


async def check(log: Log, prefix: str, topics: Iterable[Topic] | None = None) -> None:
    """Raises Rejected (`topic_missing` or `partition_count`) that says what to do."""
    wanted = [CATALOGUE[topic] for topic in (CATALOGUE if topics is None else topics)]
    found = await log.describe_topics([spec.name(prefix) for spec in wanted])
    for spec in wanted:
        layout = found.get(spec.name(prefix))
        if layout is None:
            raise Rejected("topic_missing", f"does not exist; `heteroscale topics create --prefix {prefix}` makes it", spec.name(prefix))
        if layout.partitions != spec.partitions:
            raise Rejected(
                "partition_count",
                f"has {layout.partitions} partitions and needs {spec.partitions}; delete it, or use another prefix",
                layout.name,
            )


async def delete(log: Log, prefix: str) -> list[str]:
    """Delete the catalogue's topics under a prefix, and nothing else; the names deleted."""
    found = await log.describe_topics([spec.name(prefix) for spec in CATALOGUE.values()])
    await log.delete_topics(found)
    return sorted(found)
