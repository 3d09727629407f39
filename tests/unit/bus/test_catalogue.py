"""The catalogue's topics on a log."""

from __future__ import annotations

import pytest

from heteroscale.bus import catalogue
from heteroscale.bus.log import Log, TopicLayout
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import CATALOGUE, Topic


async def test_topics_are_created_as_the_catalogue_says(memory_log: Log) -> None:
    """All of them, once; `keep_forever` is for simulated time."""
    created = await catalogue.create(memory_log, "p")
    assert [spec.name("p") for spec in CATALOGUE.values()] == created
    assert [] == await catalogue.create(memory_log, "p")
    await catalogue.check(memory_log, "p")
    await catalogue.create(memory_log, "q", keep_forever=True, topics=[Topic.TELEMETRY])
    found = await memory_log.describe_topics(["p.telemetry.v1", "q.telemetry.v1"])
    assert [(12, "604800000"), (12, "-1")] == [(layout.partitions, layout.config["retention.ms"]) for layout in found.values()]


async def test_a_check_says_what_is_missing_or_laid_out_otherwise(memory_log: Log) -> None:
    """By code and name."""
    with pytest.raises(Rejected, match=r"p\.specs\.v1: does not exist; `heteroscale topics create --prefix p`") as missing:
        await catalogue.check(memory_log, "p", [Topic.SPECS])
    assert "topic_missing" == missing.value.code
    await memory_log.create_topics([TopicLayout("p.specs.v1", 2, {})])
    with pytest.raises(Rejected, match="has 2 partitions and needs 1") as wrong:
        await catalogue.check(memory_log, "p", [Topic.SPECS])
    assert "partition_count" == wrong.value.code
    with pytest.raises(Rejected):
        await catalogue.create(memory_log, "p")
    assert ["p.specs.v1"] == list(await memory_log.describe_topics())


async def test_only_its_own_topics_are_deleted(memory_log: Log) -> None:
    """Neither another prefix's nor foreign topics under the same prefix."""
    await catalogue.create(memory_log, "p")
    await catalogue.create(memory_log, "p2")
    await memory_log.create_topics([TopicLayout("p.somebody", 1, {})])
    assert len(Topic) == len(await catalogue.delete(memory_log, "p"))
    left = await memory_log.describe_topics()
    assert "p.somebody" in left
    assert len(Topic) + 1 == len(left)
