"""Where two messages differ: the leaves, by path, the smallest set of them that says it all. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

ABSENT = "absent"


class Difference(NamedTuple):
    """One leaf: its path (`roles.decode.commanded`), as recorded and as replayed, in JSON."""

    path: str
    recorded: str
    replayed: str

    def __str__(self) -> str:
        return f"{self.path}: recorded {self.recorded}, replayed {self.replayed}"


def of_messages(recorded: msgspec.Struct, replayed: msgspec.Struct) -> list[Difference]:
    """Differences of two messages."""
    return of_documents(msgspec.to_builtins(recorded, str_keys=True), msgspec.to_builtins(replayed, str_keys=True))


def of_documents(recorded: object, replayed: object) -> list[Difference]:
    """Differences of two JSON documents, by path."""
    return sorted(_walk(recorded, replayed, ""))


def _walk(one: Any, other: Any, path: str) -> Iterator[Difference]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            below = f"{path}.{key}" if path else str(key)
            if key not in one:
                yield Difference(below, ABSENT, _text(other[key]))
            elif key not in other:
                yield Difference(below, _text(one[key]), ABSENT)
            else:
                yield from _walk(one[key], other[key], below)
    elif isinstance(one, list) and isinstance(other, list):
        for at in range(max(len(one), len(other))):
            below = f"{path}[{at}]"
            if at >= len(one):
                yield Difference(below, ABSENT, _text(other[at]))
            elif at >= len(other):
                yield Difference(below, _text(one[at]), ABSENT)
            else:
                yield from _walk(one[at], other[at], below)
    elif one != other:
        yield Difference(path, _text(one), _text(other))


def _text(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 120 else f"{text[:117]}..."
