"""Taking out what must not leave the house: free-text fields, and names of nodes and instances, consistently and in every byte.

Pseudonyms keep the sort order of the names they stand for, since ties in placement break on names: what was planned with the
real names is planned with the pseudonyms. Names are collected in a first pass over everything that will be written.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import Topic, topic_of

KINDS: Final = ("node", "instance")
FIELDS: Final[Mapping[Topic, Mapping[str, str]]] = {
    Topic.TELEMETRY: {"source": "who published the record"},
    Topic.ACTUATIONS: {"actuator": "who carried it out", "detail": "what the actuator said"},
    Topic.DEAD_LETTERS: {"message": "what was wrong", "payload": "the bytes that were refused"},
}
REDACTED: Final = "redacted"
SHORT: Final = 4  # shorter names are replaced only where they stand alone: they would occur inside ids
_ID = re.compile(r"[0-9a-f]{16,64}")
_encoder = msgspec.json.Encoder()
_decode = msgspec.json.Decoder().decode
Names = Mapping[str, str]


def check_fields(fields: Iterable[str]) -> None:
    """Raises Rejected (`unknown_field`) for a field that no message has marked as free text."""
    known = {name for of_topic in FIELDS.values() for name in of_topic}
    for name in fields:
        if name not in known:
            raise Rejected("unknown_field", f"is not a field that can be redacted; there are {', '.join(sorted(known))}", name)


class Redactor:
    """Applies both to every record."""

    def __init__(self, fields: Iterable[str], names: Names) -> None:
        self._fields = {topic: frozenset(of_topic) & frozenset(fields) for topic, of_topic in FIELDS.items()}
        self._names = names
        self._pattern = _pattern(names)

    def record(self, topic: Topic, record: Record) -> Record:
        """The record without what is to be kept back. One without a trace of it keeps its very bytes."""
        fields = self._fields.get(topic, frozenset())
        if self._pattern is None and not fields:
            return record
        key = record.key
        if key is not None and self._pattern is not None:
            key = self._text(key.decode("utf-8", "replace")).encode()
        return record._replace(key=key, value=None if record.value is None else self._value(record.value, fields))

    def _value(self, value: bytes, fields: frozenset[str]) -> bytes:
        try:
            document = _decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _encoder.encode({REDACTED: "a value that is no JSON"})
        changed = self._walk(document, fields)
        return value if changed == document else _encoder.encode(changed)

    def _walk(self, value: Any, fields: frozenset[str]) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self._walk(item, fields) for item in value]
        if isinstance(value, dict):
            plain = {
                self._text(key): REDACTED if key in fields and item is not None else self._walk(item, fields) for key, item in value.items()
            }
            if "payload" in plain and "payload" not in fields and isinstance(plain["payload"], str):
                plain["payload"] = self._payload(plain["payload"])
            return plain
        return value

    def _payload(self, text: str) -> str:
        """A dead letter's bytes stand in base64, where names hide."""
        try:
            inner = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, ValueError):
            return text
        return base64.b64encode(self._text(inner).encode()).decode()

    def _text(self, text: str) -> str:
        if self._pattern is None or _ID.fullmatch(text):
            return text
        exact = self._names.get(text)
        return exact if exact is not None else self._pattern.sub(lambda found: self._names[found[0]], text)


def _pattern(names: Names) -> re.Pattern[str] | None:
    """Any of the names, longest first; short ones only where they stand alone."""
    if not names:
        return None
    alternatives = [
        re.escape(name) if len(name) >= SHORT else rf"(?<![A-Za-z0-9_.-]){re.escape(name)}(?![A-Za-z0-9_-])"
        for name in sorted(names, key=lambda name: (-len(name), name))
    ]
    return re.compile("|".join(alternatives))


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
            found["node"].add(record.key.decode("utf-8", "replace").partition("/")[2])
        if record.value is not None:
            try:
                _gather(_decode(record.value), found, "")
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
    return {name: pseudonym for kind, names in found.items() for name, pseudonym in _ranked(kind, names).items()}


def _gather(value: Any, found: dict[str, set[str]], under: str) -> None:
    """Names by the fields they stand in."""
    if isinstance(value, list):
        for item in value:
            _gather(item, found, under)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in found and isinstance(item, str):
                found[key].add(item)
            elif key == "nodes" and isinstance(item, dict):
                found.get("node", set()).update(item)
            elif key == "id" and under == "instances" and isinstance(item, str):
                found.get("instance", set()).add(item)
            else:
                _gather(item, found, key)


def _ranked(kind: str, names: set[str]) -> dict[str, str]:
    """`node-0001`, … in the order of the names."""
    ordered = sorted(name for name in names if name)
    width = max(4, len(str(len(ordered))))
    number: Callable[[int], str] = lambda at: f"{kind}-{at:0{width}d}"  # noqa: E731 - one line says it
    return {name: number(at) for at, name in enumerate(ordered, start=1)}
