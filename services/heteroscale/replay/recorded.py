"""What was recorded, message by message: everything but telemetry, which stages read as a stream.

Nothing is held: a Shelf looks its records up when it is asked and decodes them then. A record whose value cannot be read makes the
bundle not replayable rather than diverged (`unreadable`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar, overload

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts import codec, keys
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import FleetName, NodeName, ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.replay.bundle import Bundle
from heteroscale.replay.store import Store, Value, place_of

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


@dataclass(frozen=True, slots=True)
class Shelf(Sequence[Found[M]]):
    """Messages of one kind in one order, read from the store as they are asked for."""

    store: Store
    kind: type[M]
    topic: Topic
    where: str = ""
    values: tuple[Value, ...] = ()
    order: str = "n"

    def __iter__(self) -> Iterator[Found[M]]:
        for record in self.store.rows(self.topic, f"{self.where} ORDER BY {self.order}", self.values):
            yield Found(record, message_of(self.kind, record))

    def __len__(self) -> int:
        return int(self.store.column(self.topic, "count(*)", self.where, self.values)[0])

    @overload
    def __getitem__(self, at: int) -> Found[M]: ...

    @overload
    def __getitem__(self, at: slice) -> list[Found[M]]: ...

    def __getitem__(self, at: int | slice) -> Found[M] | list[Found[M]]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        number = at if at >= 0 else len(self) + at
        tail = f"{self.where} ORDER BY {self.order} LIMIT 1 OFFSET ?"
        for record in self.store.rows(self.topic, tail, (*self.values, number)) if number >= 0 else ():
            return Found(record, message_of(self.kind, record))
        raise IndexError(at)

    @property
    def first(self) -> Found[M] | None:
        """The first one; null if there is none."""
        return next(iter(self), None)


class Recorded:
    """What was recorded. Shelves by service hold the first record of each window end, decision id or decided window."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.store = Store(bundle)

    @cached_property
    def specs(self) -> dict[ServiceName, list[tuple[Record, ServiceSpec | None]]]:
        """Revisions and tombstones by service, in the order they were written."""
        found: dict[ServiceName, list[tuple[Record, ServiceSpec | None]]] = {}
        for record in self.bundle.records(Topic.SPECS):
            spec = None if record.value is None else message_of(ServiceSpec, record)
            found.setdefault(keys.service_of(record.key), []).append((record, spec))
        return found

    @cached_property
    def windows(self) -> dict[ServiceName, Shelf[SignalWindow]]:
        """By service, in offset order."""
        return self._by_service(SignalWindow, Topic.SIGNALS)

    @cached_property
    def decisions(self) -> dict[ServiceName, Shelf[Decision]]:
        """By service, in offset order."""
        return self._by_service(Decision, Topic.DECISIONS)

    @cached_property
    def states(self) -> dict[ServiceName, Shelf[DecisionState]]:
        """By service, in offset order; hourly copies count as well."""
        return self._by_service(DecisionState, Topic.DECISION_STATE)

    @property
    def last_ms(self) -> int:
        """The end of the window that was asked for, or of the last decision after it."""
        newest = self.store.column(Topic.DECISIONS, "max(a)")[0]
        return max(self.bundle.manifest.window.to_ms, newest or 0)

    @property
    def placements(self) -> Shelf[Placement]:
        """All of them, dry-run answers too, in file order."""
        return Shelf(self.store, Placement, Topic.PLACEMENTS)

    @property
    def commands(self) -> Shelf[Command]:
        """All of them, in file order."""
        return Shelf(self.store, Command, Topic.COMMANDS)

    @property
    def actuations(self) -> Shelf[Actuation]:
        """All of them, in file order."""
        return Shelf(self.store, Actuation, Topic.ACTUATIONS)

    def fleet(self, fleet: FleetName | None = None, since: int = 0, until: int = 2**62) -> Iterator[tuple[NodeName, Record]]:
        """Records of fleet.v1 with offsets in [since, until), of one fleet or of all, in offset order."""
        tail = "WHERE (?1 IS NULL OR name = ?1) AND offset >= ?2 AND offset < ?3 ORDER BY offset"
        for record in self.store.rows(Topic.FLEET, tail, (fleet, since, until)):
            yield keys.node_of(record.key)[1], record

    def fleets(self) -> list[FleetName]:
        """The fleets of the bundle."""
        return sorted(self.bundle.manifest.fleets)

    def windows_between(self, service: ServiceName, after_ms: int, until_ms: int) -> Shelf[SignalWindow]:
        """Windows that end in (after, until], by their end."""
        where = "WHERE name = ? AND mark > ? AND mark <= ?"
        return Shelf(self.store, SignalWindow, Topic.SIGNALS, where, (service, after_ms, until_ms), "mark")

    def window_at(self, service: ServiceName, offset: int) -> Found[SignalWindow] | None:
        """The window that stands at an offset of the service's partition."""
        return Shelf(self.store, SignalWindow, Topic.SIGNALS, "WHERE name = ? AND offset = ?", (service, offset)).first

    def last_window_before(self, service: ServiceName, revision: int) -> int:
        """The end of the last window that was closed under an older revision of the spec; -1 for none."""
        where = "WHERE name = ? AND a IS NOT NULL AND a < ?"
        found = self.store.column(Topic.SIGNALS, "max(mark)", where, (service, revision))[0]
        return -1 if found is None else int(found)

    def decisions_after(self, service: ServiceName, at_ms: int) -> Shelf[Decision]:
        """A service's decisions later than an instant, in offset order."""
        return Shelf(self.store, Decision, Topic.DECISIONS, "WHERE name = ? AND a > ?", (service, at_ms), "offset")

    def decisions_until(self, service: ServiceName, at_ms: int) -> Shelf[Decision]:
        """A service's decisions up to an instant, newest first."""
        return Shelf(self.store, Decision, Topic.DECISIONS, "WHERE name = ? AND a <= ?", (service, at_ms), "a DESC")

    def decision_of(self, service: ServiceName, identity: str) -> Found[Decision] | None:
        """A service's decision by its whole id."""
        return Shelf(self.store, Decision, Topic.DECISIONS, "WHERE name = ? AND mark = ?", (service, identity)).first

    def decisions_like(self, start: str) -> Shelf[Decision]:
        """Decisions whose id begins so."""
        where = "WHERE mark >= ?1 AND mark < ?1 || char(1114111)"
        return Shelf(self.store, Decision, Topic.DECISIONS, where, (start,))

    def state_of(self, service: ServiceName, end_ms: int) -> Found[DecisionState] | None:
        """The state after the window that ends then."""
        return Shelf(self.store, DecisionState, Topic.DECISION_STATE, "WHERE name = ? AND mark = ?", (service, end_ms)).first

    def state_until(self, service: ServiceName, at_ms: int) -> Found[DecisionState] | None:
        """The newest state whose decision is not later than an instant."""
        where = "WHERE name = ? AND a <= ?"
        return Shelf(self.store, DecisionState, Topic.DECISION_STATE, where, (service, at_ms), "mark DESC").first

    def placements_of(self, service: ServiceName, since: int = 0, until: int = 2**62) -> Shelf[Placement]:
        """A service's placements and dry-run answers with offsets in [since, until), in offset order."""
        where = "WHERE name = ? AND offset >= ? AND offset < ?"
        return Shelf(self.store, Placement, Topic.PLACEMENTS, where, (service, since, until), "offset")

    def placements_back(self, service: ServiceName, until: int) -> Shelf[Placement]:
        """A service's placements and dry-run answers below an offset, newest first."""
        return Shelf(self.store, Placement, Topic.PLACEMENTS, "WHERE name = ? AND offset < ?", (service, until), "offset DESC")

    def placements_by_cycle(self, fleet: FleetName) -> Shelf[Placement]:
        """A fleet's placements that say what they were made from, by generation and cycle."""
        return Shelf(self.store, Placement, Topic.PLACEMENTS, "WHERE c = ? AND b IS NOT NULL", (fleet,), "a, b, n")

    def commands_of(self, fleet: FleetName, since: int, until: int) -> Shelf[Command]:
        """A fleet's commands with offsets in [since, until)."""
        where = "WHERE name = ? AND offset >= ? AND offset < ?"
        return Shelf(self.store, Command, Topic.COMMANDS, where, (fleet, since, until), "offset")

    def commands_to(self, service: ServiceName, revision: int | None = None) -> Shelf[Command]:
        """Commands to a service, of one revision or of all, in file order."""
        where = "WHERE mark = ?1 AND (?2 IS NULL OR b = ?2)"
        return Shelf(self.store, Command, Topic.COMMANDS, where, (service, revision))

    def command_like(self, command: Command) -> Found[Command] | None:
        """The first record of a command that went out at that instant under that id."""
        where = "WHERE mark = ? AND a = ? AND c = ?"
        same = Shelf(self.store, Command, Topic.COMMANDS, where, (command.service, command.at_ms, command.id))
        return next((found for found in same if found.message.dry_run == command.dry_run), None)

    def actuations_of(self, fleet: FleetName, since: int, until: int) -> Shelf[Actuation]:
        """A fleet's acknowledgements with offsets in [since, until)."""
        where = "WHERE name = ? AND offset >= ? AND offset < ?"
        return Shelf(self.store, Actuation, Topic.ACTUATIONS, where, (fleet, since, until), "offset")

    def _by_service(self, kind: type[M], topic: Topic) -> dict[ServiceName, Shelf[M]]:
        names = sorted(self.store.column(topic, "DISTINCT name"))
        return {name: Shelf(self.store, kind, topic, "WHERE name = ?", (name,), "offset") for name in names}


def message_of(kind: type[M], record: Record) -> M:
    """Raises Rejected (`unreadable`) with the record's place."""
    try:
        return codec.decode(kind, record.value or b"")
    except Rejected as error:
        raise Rejected("unreadable", f"this build cannot read it: {error.message}", place_of(record)) from error


def in_order(records: Iterable[Record]) -> list[Record]:
    """(timestamp, topic, partition, offset): the order in which services take a batch."""
    return sorted(records, key=lambda one: (one.timestamp_ms, one.topic, one.partition, one.offset))
