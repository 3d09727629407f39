"""A bundle's outputs in memory, decoded on demand: everything but telemetry, which stages read as a stream.

Only what is asked about is decoded; bytes are kept as recorded. A record whose value cannot be read makes the bundle not
replayable rather than diverged (`unreadable`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import FleetName, ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.replay.bundle import Bundle
from heteroscale.replay.capture import service_of

M = TypeVar("M", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Found(Generic[M]):
    """A message and the record it came in."""

    record: Record
    message: M

    @property
    def place(self) -> str:
        """`topic/partition@offset`."""
        return place_of(self.record)


def place_of(record: Record) -> str:
    """`topic/partition@offset`, as every figure is traced."""
    return f"{record.topic}/{record.partition}@{record.offset}"


class Recorded:
    """What was recorded. Each property reads its topic once."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @cached_property
    def specs(self) -> dict[ServiceName, list[tuple[Record, ServiceSpec | None]]]:
        """Revisions and tombstones by service, in the order they were written."""
        found: dict[ServiceName, list[tuple[Record, ServiceSpec | None]]] = {}
        for record in self.bundle.records(Topic.SPECS):
            spec = None if record.value is None else message_of(ServiceSpec, record)
            found.setdefault(service_of(record), []).append((record, spec))
        return found

    @cached_property
    def windows(self) -> dict[ServiceName, list[Found[SignalWindow]]]:
        """By service, first record of each window end, in offset order."""
        return self._outputs(SignalWindow, Topic.SIGNALS, lambda message: message.end_ms)

    @cached_property
    def decisions(self) -> dict[ServiceName, list[Found[Decision]]]:
        """By service, first record of each decision id, in offset order."""
        return self._outputs(Decision, Topic.DECISIONS, lambda message: message.id)

    @cached_property
    def states(self) -> dict[ServiceName, list[Found[DecisionState]]]:
        """By service, first record of each decided window; hourly copies count as well."""
        return self._outputs(DecisionState, Topic.DECISION_STATE, lambda state: state.law.window_end_ms)

    @cached_property
    def placements(self) -> list[Found[Placement]]:
        """All of them, dry-run answers too, in file order."""
        return list(self._all(Placement, Topic.PLACEMENTS))

    @cached_property
    def commands(self) -> list[Found[Command]]:
        """All of them, in file order."""
        return list(self._all(Command, Topic.COMMANDS))

    @cached_property
    def actuations(self) -> list[Found[Actuation]]:
        """All of them, in file order."""
        return list(self._all(Actuation, Topic.ACTUATIONS))

    @cached_property
    def fleet(self) -> list[Record]:
        """fleet.v1 as it was, in offset order."""
        return list(self.bundle.records(Topic.FLEET))

    def fleets(self) -> list[FleetName]:
        """The fleets of the bundle."""
        return sorted(self.bundle.manifest.fleets)

    def _all(self, kind: type[M], topic: Topic) -> Iterator[Found[M]]:
        for record in self.bundle.records(topic):
            if record.value is not None:
                yield Found(record, message_of(kind, record))

    def _outputs(self, kind: type[M], topic: Topic, identity: Callable[[M], object]) -> dict[ServiceName, list[Found[M]]]:
        found: dict[ServiceName, list[Found[M]]] = {}
        seen: set[tuple[ServiceName, object]] = set()
        for one in self._all(kind, topic):
            service = service_of(one.record)
            mark = (service, identity(one.message))
            if mark not in seen:
                seen.add(mark)
                found.setdefault(service, []).append(one)
        return found


def message_of(kind: type[M], record: Record) -> M:
    """Raises Rejected (`unreadable`) with the record's place."""
    try:
        return codec.decode(kind, record.value or b"")
    except Rejected as error:
        raise Rejected("unreadable", f"this build cannot read it: {error.message}", place_of(record)) from error


def in_order(records: Iterable[Record]) -> list[Record]:
    """(timestamp, topic, partition, offset): the order in which services take a batch."""
    return sorted(records, key=lambda one: (one.timestamp_ms, one.topic, one.partition, one.offset))
