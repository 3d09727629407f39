"""Taking out what must not leave the house: free-text fields, and names of nodes and instances, consistently and in every byte.

Which fields those are the messages say themselves, by marks on their fields' types (`contracts.message`, `contracts.names`). Pseudonyms
keep the sort order of the names they stand for, since ties in placement break on names: what was planned with the real names is planned
with the pseudonyms. Names are collected in a first pass over everything that will be written.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from heteroscale.bus.log import Record
from heteroscale.contracts import keys
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.message import REDACTABLE
from heteroscale.contracts.names import PSEUDONYM
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_of

KINDS: Final = ("node", "instance")
Path = tuple[str, ...]  # fields from the message down; ITEM for any entry of a list or value of a mapping, KEY for a mapping's keys
ITEM: Final = "*"
KEY: Final = "**"
REDACTED: Final = "redacted"
PAYLOAD: Final[Path] = ("payload",)  # of a dead letter: bytes in base64, where names hide
SHORT: Final = 4  # shorter names are replaced only where they stand alone: they would occur inside ids
_ID = re.compile(r"[0-9a-f]{16,64}")
_encoder = msgspec.json.Encoder()
_decode = msgspec.json.Decoder().decode
Names = Mapping[str, str]


@cache
def marked(topic: Topic) -> Mapping[Path, tuple[str, object]]:
    """The marked fields of a topic's messages: path → mark and what it says."""
    found: dict[Path, tuple[str, object]] = {}
    for message in inspect.multi_type_info(CATALOGUE[topic].messages):
        for path, mark, value in _marks(message, ()):
            found[path] = (mark, value)
    return found


def _marks(kind: inspect.Type, path: Path) -> Iterator[tuple[Path, str, object]]:
    match kind:
        case inspect.Metadata():
            for mark in (REDACTABLE, PSEUDONYM):
                if mark in (kind.extra or {}):
                    yield path, mark, (kind.extra or {})[mark]
            yield from _marks(kind.type, path)
        case inspect.StructType():
            for field in kind.fields:
                yield from _marks(field.type, (*path, field.encode_name))
        case inspect.UnionType():
            for one in kind.types:
                yield from _marks(one, path)
        case inspect.ListType():
            yield from _marks(kind.item_type, (*path, ITEM))
        case inspect.DictType():
            yield from _marks(kind.key_type, (*path, KEY))
            yield from _marks(kind.value_type, (*path, ITEM))
        case _:
            return


def fields() -> dict[str, list[str]]:
    """Names of the fields that can be taken out, each with the topics that have it."""
    found: dict[str, list[str]] = {}
    for topic in Topic:
        for name in sorted({path[-1] for path, (mark, _) in marked(topic).items() if mark == REDACTABLE}):
            found.setdefault(name, []).append(topic.value)
    return dict(sorted(found.items()))


def check_fields(wanted: Iterable[str]) -> None:
    """Raises Rejected (`unknown_field`) for a field that no message has marked as free text."""
    known = fields()
    for name in wanted:
        if name not in known:
            there_are = ", ".join(f"{field} ({', '.join(topics)})" for field, topics in known.items())
            raise Rejected("unknown_field", f"is not a field that can be redacted; there are {there_are}", name)


class Redactor:
    """Applies both to every record. `kept`: names of services and fleets, which stay even where a node is called the same."""

    def __init__(self, fields: Iterable[str], names: Names, kept: Collection[str] = ()) -> None:
        wanted = frozenset(fields)
        self._names = names
        self._kept = words() | frozenset(kept)
        self._pattern = _pattern(name for name in names if name not in self._kept)
        self._rules = {topic: _Rules.of(topic, wanted) for topic in Topic}

    def record(self, topic: Topic, record: Record) -> Record:
        """The record without what is to be kept back. One without a trace of it keeps its very bytes."""
        rules = self._rules[topic]
        if not self._names and not rules.blanked:
            return record
        key = record.key
        if key is not None and self._names:
            key = self._key(topic, keys.text_of(key)).encode()
        return record._replace(key=key, value=None if record.value is None else self._value(record.value, rules))

    def _key(self, topic: Topic, key: str) -> str:
        """fleet.v1 names a node in its keys; any other key is text."""
        fleet, slash, node = key.partition("/")
        if topic is Topic.FLEET and slash:
            return f"{fleet}/{self._names.get(node, node)}"
        return self._text(key)

    def _value(self, value: bytes, rules: _Rules) -> bytes:
        try:
            document = _decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _encoder.encode({REDACTED: "a value that is no JSON"})
        changed = self._walk(document, rules, ())
        return value if changed == document else _encoder.encode(changed)

    def _walk(self, value: Any, rules: _Rules, path: Path) -> Any:
        if path in rules.blanked and value is not None:
            return REDACTED
        if isinstance(value, str):
            if path in rules.named:
                return self._names.get(value, value)
            return self._payload(value) if path == PAYLOAD else self._text(value)
        if isinstance(value, list):
            return [self._walk(item, rules, (*path, ITEM)) for item in value]
        if isinstance(value, dict):
            open_keys = (*path, ITEM) in rules.prefixes or (*path, KEY) in rules.prefixes
            renamed = (*path, KEY) in rules.named
            return {
                (self._names.get(key, key) if renamed else self._text(key)): self._walk(item, rules, (*path, ITEM if open_keys else key))
                for key, item in value.items()
            }
        return value

    def _payload(self, text: str) -> str:
        """A dead letter's bytes, in base64. What is no JSON may hold names that nobody can tell: it stays in the house."""
        if not self._names:
            return text
        inner = _inside(text)
        kept = REDACTED if inner is None else self._text(inner)
        return base64.b64encode(kept.encode()).decode()

    def _text(self, text: str) -> str:
        if self._pattern is None or text in self._kept:
            return text
        exact = self._names.get(text)
        if exact is not None:
            return exact
        return text if _ID.fullmatch(text) else self._pattern.sub(lambda found: self._names[found[0]], text)


@dataclass(frozen=True, slots=True)
class _Rules:
    """A topic's marked paths: those to blank, those that hold names, and all beginnings of either."""

    blanked: frozenset[Path]
    named: frozenset[Path]
    prefixes: frozenset[Path]

    @classmethod
    def of(cls, topic: Topic, fields: frozenset[str]) -> _Rules:
        """The rules of a topic when these fields are to be blanked."""
        blanked = {path for path, (mark, _) in marked(topic).items() if mark == REDACTABLE and path[-1] in fields}
        named = {path for path, (mark, _) in marked(topic).items() if mark == PSEUDONYM}
        return cls(frozenset(blanked), frozenset(named), frozenset(path[:end] for path in marked(topic) for end in range(len(path) + 1)))


@cache
def words() -> frozenset[str]:
    """Words of the messages themselves, field names and enumerated values: a node that is called so is renamed only where it is named."""
    found: set[str] = set()
    for topic in Topic:
        for message in inspect.multi_type_info(CATALOGUE[topic].messages):
            found.update(_words(message))
    return frozenset(found)


def _words(kind: inspect.Type) -> Iterator[str]:
    match kind:
        case inspect.Metadata():
            yield from _words(kind.type)
        case inspect.StructType():
            yield from (text for text in (kind.tag_field, kind.tag) if isinstance(text, str))
            for field in kind.fields:
                yield field.encode_name
                yield from _words(field.type)
        case inspect.EnumType():
            yield from (str(member.value) for member in kind.cls)
        case inspect.LiteralType():
            yield from (value for value in kind.values if isinstance(value, str))
        case inspect.UnionType():
            for one in kind.types:
                yield from _words(one)
        case inspect.ListType():
            yield from _words(kind.item_type)
        case inspect.DictType():
            yield from _words(kind.value_type)
        case _:
            return


def _pattern(names: Iterable[str]) -> re.Pattern[str] | None:
    """Any of the names, longest first; short ones only where they stand alone."""
    ordered = sorted(names, key=lambda name: (-len(name), name))
    alternatives = [
        re.escape(name) if len(name) >= SHORT else rf"(?<![A-Za-z0-9_.-]){re.escape(name)}(?![A-Za-z0-9_-])" for name in ordered
    ]
    return re.compile("|".join(alternatives)) if alternatives else None


def _inside(payload: object) -> str | None:
    """The JSON text that a dead letter holds in base64; null if it is none."""
    try:
        text = base64.b64decode(payload if isinstance(payload, str) else "", validate=True).decode()
        _decode(text)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None
    return text


async def collect(records: AsyncIterator[Record], kinds: Iterable[str]) -> Names:
    """Pseudonyms for every node or instance that any record names."""
    wanted = frozenset(kinds)
    for kind in sorted(wanted - frozenset(KINDS)):
        raise Rejected("unknown_kind", f"has no pseudonyms; there are {', '.join(KINDS)}", kind)
    found: dict[str, set[str]] = {kind: set() for kind in sorted(wanted)}
    async for record in records:
        topic = topic_of(record.topic)
        if topic is None:
            continue
        if topic is Topic.FLEET and "node" in found and record.key is not None:
            found["node"].add(keys.node_of(record.key)[1])
        if record.value is not None:
            gather(topic, record.value, found)
    return {name: pseudonym for kind, names in found.items() for name, pseudonym in _ranked(kind, names).items()}


def gather(topic: Topic, payload: bytes, found: Mapping[str, set[str]]) -> None:
    """Add the names in a message to those of their kinds. What is no JSON names nobody."""
    try:
        document = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    for path, (mark, kind) in marked(topic).items():
        if mark == PSEUDONYM and kind in found:
            found[str(kind)].update(one for one in _at(document, path) if isinstance(one, str))
    if topic is Topic.DEAD_LETTERS and isinstance(document, dict):
        inner, origin = _inside(document.get("payload")), topic_of(str(document.get("topic")))
        if inner is not None and origin is not None and origin is not topic:
            gather(origin, inner.encode(), found)


def _at(value: Any, path: Path) -> Iterator[Any]:
    """The values at a path."""
    if not path:
        yield value
    elif path[0] == KEY and isinstance(value, dict):
        yield from value
    elif path[0] == ITEM and isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _at(item, path[1:])
    elif isinstance(value, dict) and path[0] in value:
        yield from _at(value[path[0]], path[1:])


def _ranked(kind: str, names: set[str]) -> dict[str, str]:
    """`node-0001`, … in the order of the names."""
    ordered = sorted(name for name in names if name)
    width = max(4, len(str(len(ordered))))
    number: Callable[[int], str] = lambda at: f"{kind}-{at:0{width}d}"  # noqa: E731 - one line says it
    return {name: number(at) for at, name in enumerate(ordered, start=1)}
