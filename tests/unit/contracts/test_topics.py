"""The topic catalogue: layouts that partitioning, retention and replay depend on."""

from __future__ import annotations

import pytest

from heteroscale.contracts import topics
from heteroscale.contracts.topics import CATALOGUE, Cleanup, Topic

DAY_MS = 86_400_000


def test_every_topic_is_laid_out_as_published() -> None:
    """Partitions and clean-up, as people may rely on them."""
    assert {
        "telemetry.v1": (12, "delete", 7 * DAY_MS, None),
        "signals.v1": (12, "delete", 30 * DAY_MS, None),
        "specs.v1": (1, "compact", None, 30 * DAY_MS),
        "decisions.v1": (12, "delete", 90 * DAY_MS, None),
        "decision-state.v1": (12, "compact", None, None),
        "commands.v1": (4, "delete", 30 * DAY_MS, None),
        "placements.v1": (12, "compact", None, 30 * DAY_MS),
        "actuations.v1": (4, "delete", 30 * DAY_MS, None),
        "fleet.v1": (1, "compact", None, 30 * DAY_MS),
        "dead-letters.v1": (1, "delete", 90 * DAY_MS, None),
    } == {spec.topic.value: (spec.partitions, spec.cleanup.value, spec.retention_ms, spec.compaction_lag_ms) for spec in CATALOGUE.values()}


def test_topics_that_one_worker_must_hold_together_have_equal_counts() -> None:
    """The range assignor gives partition p of all of them to one member only if counts are equal."""
    assert 1 == len({CATALOGUE[topic].partitions for topic in (Topic.SIGNALS, Topic.PLACEMENTS, Topic.DECISION_STATE)})
    assert 1 == len({CATALOGUE[topic].partitions for topic in (Topic.COMMANDS, Topic.ACTUATIONS)})


@pytest.mark.parametrize("topic", list(Topic))
def test_any_time_stamp_is_taken(topic: Topic) -> None:
    """Simulated days are far from today; Kafka would refuse them by default."""
    config = CATALOGUE[topic].config()
    assert str(2**63 - 1) == config["message.timestamp.after.max.ms"]
    assert str(2**63 - 1) == config["message.timestamp.before.max.ms"]


def test_simulated_topics_keep_old_records() -> None:
    """Dates of a trace would be past any retention at once."""
    assert "-1" == CATALOGUE[Topic.TELEMETRY].config(keep_forever=True)["retention.ms"]
    assert str(7 * DAY_MS) == CATALOGUE[Topic.TELEMETRY].config()["retention.ms"]


def test_compacted_topics_wait_before_they_compact() -> None:
    """A month of specs, placements and fleets can be replayed."""
    for spec in CATALOGUE.values():
        waits = "min.compaction.lag.ms" in spec.config()
        assert waits == (spec.cleanup is Cleanup.COMPACT and spec.topic is not Topic.DECISION_STATE)


def test_a_take_over_reads_little_of_the_states() -> None:
    """The open segment is never compacted: it is kept small, within what a broker takes, and only where every take-over reads it."""
    sizes = {topic: int(spec.config().get("segment.bytes", 0)) for topic, spec in CATALOGUE.items()}
    assert 1024 * 1024 <= sizes.pop(Topic.DECISION_STATE) <= 8 * 1024 * 1024
    assert {0} == set(sizes.values())


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("telemetry.v1", Topic.TELEMETRY),
        ("heteroscale.telemetry.v1", Topic.TELEMETRY),
        ("heteroscale-demo-7.decision-state.v1", Topic.DECISION_STATE),
        ("my.own.prefix.fleet.v1", Topic.FLEET),
        ("telemetry.v2", None),
        ("xtelemetry.v1", None),
        ("", None),
    ],
)
def test_topics_are_known_with_and_without_a_prefix(name: str, topic: Topic | None) -> None:
    """A foreign topic is nobody's."""
    assert topic is topics.topic_of(name)


def test_a_name_and_its_topic_are_inverse() -> None:
    """What is named under a prefix is recognised."""
    for topic in Topic:
        assert topic is topics.topic_of(topics.topic_name("any-prefix", topic))
