"""A bundle's records where they can be looked up without being held: a private SQLite file that lives as long as it is asked.

Everything but telemetry goes in, topic by topic, when a topic is first asked about. SQLite keeps it in a cache of bounded size and
spills the rest to a nameless file in the temporary folder (SQLITE_TMPDIR), so a bundle may be larger than memory.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts import keys
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import Topic
from heteroscale.replay.bundle import Bundle

CACHE_KIB: Final = 16_384
Marks = tuple[str | None, str | int | None, int | None, int | None, str | None]
Value = str | int | None


class _Window(msgspec.Struct):
    end_ms: int
    spec_revision: int | None = None


class _Decision(msgspec.Struct):
    id: str
    at_ms: int


class _Decided(msgspec.Struct):
    at_ms: int


class _Law(msgspec.Struct):
    window_end_ms: int


class _State(msgspec.Struct):
    law: _Law
    decision: _Decided | None = None


class _Inputs(msgspec.Struct):
    cycle: int
    cut: dict[str, int] = {}


class _Placement(msgspec.Struct):
    service: str
    fleet: str
    gen: int
    inputs: _Inputs | None = None


class _Command(msgspec.Struct):
    service: str
    fleet: str
    id: str
    revision: int
    at_ms: int


class _Actuation(msgspec.Struct):
    fleet: str
    instance: str
    at_ms: int


def _window(record: Record, seen: _Window) -> Marks:
    return keys.service_of(record.key), seen.end_ms, seen.spec_revision, None, None


def _decision(record: Record, seen: _Decision) -> Marks:
    return keys.service_of(record.key), seen.id, seen.at_ms, None, None


def _state(record: Record, seen: _State) -> Marks:
    return keys.service_of(record.key), seen.law.window_end_ms, None if seen.decision is None else seen.decision.at_ms, None, None


def _placement(record: Record, seen: _Placement) -> Marks:
    cycle = seen.inputs.cycle if seen.inputs is not None and seen.inputs.cut else None
    return keys.service_of(record.key), None, seen.gen, cycle, seen.fleet


def _command(_record: Record, seen: _Command) -> Marks:
    return seen.fleet, seen.service, seen.at_ms, seen.revision, seen.id


def _actuation(_record: Record, seen: _Actuation) -> Marks:
    return seen.fleet, seen.instance, seen.at_ms, None, None


def _node(record: Record, _seen: Any) -> Marks:
    fleet, node = keys.node_of(record.key)
    return fleet, node, None, None, None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What records of a topic are found by: the fields looked at, the columns they become, and the indexes over those.

    `once`: of records with the same `name` and `mark` the first one counts, as readers have it.
    """

    fields: Any
    marks: Callable[[Record, Any], Marks]
    indexes: Sequence[str]
    once: bool = False
    tombstones: bool = False


CATALOGUES: Final = {
    Topic.SIGNALS: Catalogue(_Window, _window, ("name, offset",), once=True),
    Topic.DECISIONS: Catalogue(_Decision, _decision, ("name, offset", "name, a"), once=True),
    Topic.DECISION_STATE: Catalogue(_State, _state, ("name, a",), once=True),
    Topic.PLACEMENTS: Catalogue(_Placement, _placement, ("name, offset", "c, a, b")),
    Topic.COMMANDS: Catalogue(_Command, _command, ("name, offset", "mark, a", "mark, b")),
    Topic.ACTUATIONS: Catalogue(_Actuation, _actuation, ("name, offset", "mark")),
    Topic.FLEET: Catalogue(None, _node, ("name, offset",), tombstones=True),
}


class Store:
    """The records of one bundle, by topic."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._filled: set[Topic] = set()
        self._unreadable: dict[Topic, Rejected] = {}
        self._names: dict[Topic, str] = {}
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}"):
            self._base.execute(f"PRAGMA {pragma}").close()
        weakref.finalize(self, self._base.close)

    def rows(self, topic: Topic, tail: str, values: Sequence[Value] = ()) -> Iterator[Record]:
        """Records of a topic, one at a time; `tail` is the rest of the query, a constant of this package. Raises Rejected."""
        for partition, offset, at_ms, key, value in self._asked(topic, "partition, offset, at_ms, key, value", tail, values):
            yield Record(self._names[topic], partition, offset, at_ms, key, value)

    def column(self, topic: Topic, what: str, tail: str = "", values: Sequence[Value] = ()) -> list[Any]:
        """One column (or one figure over it) of the records that `tail` chooses."""
        return [found for (found,) in self._asked(topic, what, tail, values)]

    def _asked(self, topic: Topic, what: str, tail: str, values: Sequence[Value]) -> Iterator[Any]:
        self._fill(topic)
        table = _table(topic)
        rows = self._base.execute(f"SELECT {what} FROM {table} {tail}", tuple(values))  # noqa: S608 - constants of this package
        for row in rows:  # noqa: UP028 - `yield from` would close the cursor, which a base that was let go before it refuses
            yield row

    def _fill(self, topic: Topic) -> None:
        """Put a topic's records in, the first time it is asked about. Raises Rejected (`unreadable`, `damaged`)."""
        if topic in self._filled:
            return
        if topic in self._unreadable:
            raise self._unreadable[topic]
        table, catalogue = _table(topic), CATALOGUES[topic]
        self._names[topic] = self._bundle.name(topic)
        unique = ", UNIQUE (name, mark)" if catalogue.once else ""
        self._base.execute(
            f"CREATE TABLE {table} (n INTEGER PRIMARY KEY, partition INT, offset INT, at_ms INT, key BLOB, value BLOB,"
            f" name TEXT, mark, a INT, b INT, c TEXT{unique})"
        )
        self._base.execute("BEGIN")
        try:
            put = f"INSERT OR IGNORE INTO {table} VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant of this module
            self._base.executemany(put, self._entries(topic, catalogue))
        except Rejected as error:
            self._unreadable[topic] = error
            raise
        finally:
            self._base.execute("COMMIT")
        for number, columns in enumerate(catalogue.indexes):
            self._base.execute(f"CREATE INDEX {table}_{number} ON {table} ({columns})")
        self._filled.add(topic)

    def _entries(self, topic: Topic, catalogue: Catalogue) -> Iterator[tuple[object, ...]]:
        decoder = None if catalogue.fields is None else msgspec.json.Decoder(catalogue.fields)
        for record in self._bundle.records(topic):
            if record.value is None and not catalogue.tombstones:
                continue
            try:
                seen = None if decoder is None else decoder.decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise Rejected("unreadable", f"this build cannot read it: {error}", place_of(record)) from error
            marks = catalogue.marks(record, seen)
            yield (record.partition, record.offset, record.timestamp_ms, record.key, record.value, *marks)


def _table(topic: Topic) -> str:
    return topic.name.lower()


def place_of(record: Record) -> str:
    """`topic/partition@offset`, as every figure is traced."""
    return f"{record.topic}/{record.partition}@{record.offset}"
