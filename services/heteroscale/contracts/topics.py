"""The topic catalogue: names, keys, partitions and clean-up. Created, checked and described from here alone."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.dead_letters import DeadLetter
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import Samples, Tick
from heteroscale.contracts.units import MS_PER_UNIT

DAY_MS: Final = MS_PER_UNIT["d"]
FOREVER_MS: Final = -1
ANY_STAMP: Final = str(2**63 - 1)  # Kafka refuses stamps an hour ahead unless told otherwise
STATE_SEGMENT_BYTES: Final = 4 * 1024 * 1024  # the open segment is never compacted, and a take-over reads all of it (Kafka: 1 MiB or more)
DEFAULT_PREFIX: Final = "heteroscale"


class Topic(enum.StrEnum):
    """Topic names without the prefix."""

    TELEMETRY = "telemetry.v1"
    SIGNALS = "signals.v1"
    SPECS = "specs.v1"
    DECISIONS = "decisions.v1"
    DECISION_STATE = "decision-state.v1"
    COMMANDS = "commands.v1"
    PLACEMENTS = "placements.v1"
    ACTUATIONS = "actuations.v1"
    FLEET = "fleet.v1"
    DEAD_LETTERS = "dead-letters.v1"


class Cleanup(enum.StrEnum):
    """Kafka's cleanup.policy."""

    DELETE = "delete"
    COMPACT = "compact"


class TopicSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How one topic is laid out."""

    topic: Topic
    key: str
    partitions: int
    cleanup: Cleanup
    retention_ms: int | None = None
    compaction_lag_ms: int | None = None
    segment_bytes: int | None = None
    messages: tuple[type[msgspec.Struct], ...]

    def name(self, prefix: str) -> str:
        """Full name under a prefix."""
        return topic_name(prefix, self.topic)

    def config(self, *, keep_forever: bool = False) -> dict[str, str]:
        """Kafka topic configuration; `keep_forever` is for simulated time, whose old stamps would be deleted at once."""
        config = {
            "cleanup.policy": self.cleanup.value,
            "message.timestamp.before.max.ms": ANY_STAMP,
            "message.timestamp.after.max.ms": ANY_STAMP,
        }
        if keep_forever:
            config["retention.ms"] = str(FOREVER_MS)
        elif self.retention_ms is not None:
            config["retention.ms"] = str(self.retention_ms)
        if self.compaction_lag_ms is not None:
            config["min.compaction.lag.ms"] = str(self.compaction_lag_ms)
        if self.segment_bytes is not None:
            config["segment.bytes"] = str(self.segment_bytes)
        return config


def _delete(topic: Topic, key: str, partitions: int, days: int, *messages: type[msgspec.Struct]) -> TopicSpec:
    return TopicSpec(topic=topic, key=key, partitions=partitions, cleanup=Cleanup.DELETE, retention_ms=days * DAY_MS, messages=messages)


def _compact(topic: Topic, key: str, partitions: int, lag_days: int, *messages: type[msgspec.Struct]) -> TopicSpec:
    lag_ms = lag_days * DAY_MS
    return TopicSpec(topic=topic, key=key, partitions=partitions, cleanup=Cleanup.COMPACT, compaction_lag_ms=lag_ms, messages=messages)


CATALOGUE: Final[Mapping[Topic, TopicSpec]] = {
    spec.topic: spec
    for spec in (
        _delete(Topic.TELEMETRY, "service", 12, 7, Samples, Tick),
        _delete(Topic.SIGNALS, "service", 12, 30, SignalWindow),
        _compact(Topic.SPECS, "service", 1, 30, ServiceSpec),
        _delete(Topic.DECISIONS, "service", 12, 90, Decision),
        TopicSpec(
            topic=Topic.DECISION_STATE,
            key="service",
            partitions=12,
            cleanup=Cleanup.COMPACT,
            segment_bytes=STATE_SEGMENT_BYTES,
            messages=(DecisionState,),
        ),
        _delete(Topic.COMMANDS, "fleet", 4, 30, Command),
        _compact(Topic.PLACEMENTS, "service", 12, 30, Placement),
        _delete(Topic.ACTUATIONS, "fleet", 4, 30, Actuation),
        _compact(Topic.FLEET, "FLEET/NODE", 1, 30, FleetNode),
        _delete(Topic.DEAD_LETTERS, "original key", 1, 90, DeadLetter),
    )
}


def topic_name(prefix: str, topic: Topic) -> str:
    """`<prefix>.<name>`."""
    return f"{prefix}.{topic.value}"


def topic_of(name: str) -> Topic | None:
    """The catalogue topic of a name with or without a prefix; null for a foreign one."""
    for topic in Topic:
        if name == topic.value or name.endswith(f".{topic.value}"):
            return topic
    return None
