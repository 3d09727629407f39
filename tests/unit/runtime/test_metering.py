"""The log that counts."""

from __future__ import annotations

import pytest

from heteroscale.bus import catalogue
from heteroscale.bus.log import Entry, Log, TopicPartition
from heteroscale.contracts.errors import Broken
from heteroscale.contracts.topics import Topic
from heteroscale.runtime import metrics
from heteroscale.runtime.metering import MeteredLog, label_of
from heteroscale.runtime.metrics import Metrics


def test_labels_are_bounded() -> None:
    """A topic's label has no prefix; a foreign topic is `other`."""
    assert ("signals.v1", "other") == (label_of("anything.signals.v1"), label_of("somebody.elses"))


async def test_appends_polls_assignments_and_lag_are_counted(memory_log: Log) -> None:
    """By topic; lag per partition held, and forgotten when the partition goes; errors by kind."""
    registry = Metrics()
    log = MeteredLog(memory_log, registry)
    await catalogue.create(log, "m")
    name = "m.commands.v1"
    await log.append([Entry(name, None, b"{}", n, 0) for n in range(5)])
    reader = log.reader({TopicPartition(name, 0): 3})
    assert 2 == len(await reader.poll(timeout_ms=0))
    member = await log.join("g", [name])
    assert 4 == len(await member.poll(timeout_ms=0, records_max=4))
    await member.commit(member.positions())
    assert 4 == await member.committed(TopicPartition(name, 0))
    assert 5 == registry.value(metrics.BUS_APPENDED, topic=Topic.COMMANDS.value)
    assert 1 == registry.value(metrics.BUS_APPEND_SECONDS)
    assert 6 == registry.value(metrics.BUS_POLLED, topic=Topic.COMMANDS.value)
    assert 1 == registry.value(metrics.BUS_REBALANCES, group="g")
    assert 1 == registry.value(metrics.BUS_LAG, topic=Topic.COMMANDS.value, partition="0")
    await member.close()
    assert b'partition="0"' not in registry.page()
    with pytest.raises(Broken):
        await log.append([Entry("nowhere", b"k", b"v", 0)])
    assert 1 == registry.value(metrics.BUS_ERRORS, kind="Broken")
