"""fleet.v1 as placement follows it: what stands, and what cannot be used."""

from __future__ import annotations

from heteroscale.bus import catalogue
from heteroscale.bus.log import Entry, Log
from heteroscale.contracts import codec
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.placement.fleet_topic import FleetTopic
from support.builders import AT_MS
from support.gangs import node

PREFIX = "memory"


async def test_a_bad_record_stays_at_hand_until_its_letter_is_written(memory_log: Log) -> None:
    """NOTHING-LOST: who fails while writing dead letters meets the same record again; the good ones stand."""
    await catalogue.create(memory_log, PREFIX)
    topic = topic_name(PREFIX, Topic.FLEET)
    good = node("n1")
    values = [(f"{good.fleet}/n1", codec.encode(good)), (f"{good.fleet}/n2", codec.encode(good)), ("no-slash", codec.encode(good))]
    await memory_log.append([Entry(topic, key.encode(), value, AT_MS) for key, value in values])
    fleet = FleetTopic(memory_log, topic)
    await fleet.catch_up()
    assert {"n1": good} == {name: change.record for name, change in fleet.newest(good.fleet).items()}
    failing = fleet.drain_rejected()
    assert 1 == next(failing)[0].offset
    failing.close()
    assert [1, 2] == [record.offset for record, _ in fleet.drain_rejected()]
    assert [] == list(fleet.drain_rejected())
    await fleet.close()
