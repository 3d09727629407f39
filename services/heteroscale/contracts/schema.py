"""`schemas/`, generated from the messages: a JSON Schema (2020-12) each, and one AsyncAPI 3 document for the topics.

`python -m heteroscale.contracts.schema [FOLDER]` writes them; a test fails when they drift. The examples beside them are
written by hand and checked against both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import inspect

from heteroscale.contracts import codec, topics
from heteroscale.contracts.topics import TopicSpec
from heteroscale.contracts.units import Duration, Instant, Percent

Document: TypeAlias = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI_VERSION: Final = "3.0.0"
_UNITS: Final[Mapping[type, Document]] = {
    Duration: {"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$", "examples": ["500ms", "60s", "10m"]},
    Percent: {"type": "string", "pattern": r"^\d+(\.\d+)?%$", "examples": ["5%", "12.5%"]},
    Instant: {"type": "string", "format": "date-time", "examples": ["2026-12-01T00:00Z"]},
}
_PLAIN: Final[Mapping[type[inspect.Type], str]] = {
    inspect.StrType: "string",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.NoneType: "null",
}
_PREFIX_PARAMETER: Final = "{prefix}"


def messages() -> tuple[type[msgspec.Struct], ...]:
    """Every message that travels, in the order of the topic catalogue."""
    return tuple(message for spec in topics.CATALOGUE.values() for message in spec.messages)


def message_schema(message: type[msgspec.Struct]) -> Document:
    """A self-contained JSON Schema of one message."""
    (root,), definitions = _components((message,), "#/$defs/{name}")
    return {"$schema": DIALECT, "title": message.__name__, **root, "$defs": definitions}


def asyncapi() -> Document:
    """The topics as AsyncAPI 3: one channel a topic, its Kafka binding, and what services may send and receive."""
    _, definitions = _components(messages(), "#/components/schemas/{name}")
    specs = topics.CATALOGUE.values()
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "heteroscale",
            "version": "1",
            "license": {"name": "Apache-2.0"},
            "description": "Topics of the autoscaling loop. Names carry a prefix, `heteroscale` by default.",
        },
        "defaultContentType": "application/json",
        "channels": {spec.topic.value: _channel(spec) for spec in specs},
        "operations": {f"{verb}.{spec.topic.value}": _operation(verb, spec) for spec in specs for verb in ("send", "receive")},
        "components": {
            "messages": {message.__name__: _message(message) for message in messages()},
            "schemas": definitions,
        },
    }


def files() -> Iterator[tuple[str, bytes]]:
    """Every generated file: path below `schemas/`, content."""
    yield "asyncapi.json", _rendered(asyncapi())
    for message in messages():
        yield f"messages/{message.__name__}.json", _rendered(message_schema(message))


def write(folder: Path) -> list[Path]:
    """Write all generated files below `folder`; the paths that changed. Schemas of messages that are gone are removed."""
    wanted = {folder / path: content for path, content in files()}
    changed = [path for path, content in wanted.items() if not path.is_file() or path.read_bytes() != content]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted[path])
    gone = [path for path in sorted((folder / "messages").glob("*.json")) if path not in wanted]
    for path in gone:
        path.unlink()
    return [*changed, *gone]


class _Definitions:
    """Collects the named types met while describing messages. msgspec's own generator refuses defaults of custom types."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._found: dict[str, Document] = {}

    def sorted(self) -> Document:
        """All definitions, by name."""
        return dict(sorted(self._found.items()))

    def describe(self, kind: inspect.Type) -> Document:
        """The schema of one type; structs, enums and units become references."""
        match kind:
            case inspect.Metadata():
                return {**self.describe(kind.type), **_marks(kind)}
            case inspect.StructType():
                return self._named(kind.cls, lambda: self._struct(kind))
            case inspect.EnumType():
                return self._named(kind.cls, lambda: {"type": "string", "enum": sorted(_values(kind))})
            case inspect.CustomType():
                return self._named(kind.cls, lambda: dict(_UNITS[kind.cls]))
            case inspect.UnionType():
                return self._union(kind.types)
            case _:
                return self._unnamed(kind)

    def _unnamed(self, kind: inspect.Type) -> Document:
        match kind:
            case inspect.ListType():
                return {"type": "array", "items": self.describe(kind.item_type)}
            case inspect.DictType():
                return {"type": "object", "additionalProperties": self.describe(kind.value_type), **_key_marks(kind)}
            case inspect.LiteralType():
                return {"enum": sorted(kind.values)}
            case inspect.BytesType():
                return {"type": "string", "contentEncoding": "base64"}
            case _:
                return {"type": _PLAIN[type(kind)], **_bounds(kind)}

    def _union(self, marked: tuple[inspect.Type, ...]) -> Document:
        types = tuple(kind.type if isinstance(kind, inspect.Metadata) else kind for kind in marked)
        marks = {name: mark for kind in marked if isinstance(kind, inspect.Metadata) for name, mark in _marks(kind).items()}
        plain = {"type": sorted({_PLAIN[type(kind)] for kind in types if type(kind) in _PLAIN})}
        if {"integer", "number"} <= set(plain["type"]):
            plain["type"].remove("integer")
        others = [self.describe(kind) for kind in types if type(kind) not in _PLAIN]
        if not others:
            bounds = {name: limit for kind in types for name, limit in _bounds(kind).items()}
            return {"type": plain["type"][0] if len(plain["type"]) == 1 else plain["type"], **bounds, **marks}
        return {"anyOf": [*others, *({"type": name} for name in plain["type"])], **marks}

    def _named(self, cls: type, describe: Callable[[], Document]) -> Document:
        if cls.__name__ not in self._found:
            self._found[cls.__name__] = {}  # a type may hold itself
            self._found[cls.__name__] = {"title": cls.__name__, "description": _doc(cls), **describe()}
        return {"$ref": self._reference.format(name=cls.__name__)}

    def _struct(self, kind: inspect.StructType) -> Document:
        properties: Document = {}
        if kind.tag_field is not None:
            properties[kind.tag_field] = {"const": kind.tag}
        for field in kind.fields:
            properties[field.encode_name] = {**self.describe(field.type), **_default(field)}
        tag = [] if kind.tag_field is None else [kind.tag_field]
        return {
            "type": "object",
            "properties": properties,
            "required": [*tag, *(field.encode_name for field in kind.fields if field.required)],
        }


def _components(kinds: tuple[type[msgspec.Struct], ...], reference: str) -> tuple[tuple[Document, ...], Document]:
    definitions = _Definitions(reference)
    roots = tuple(definitions.describe(kind) for kind in inspect.multi_type_info(kinds))
    return roots, definitions.sorted()


def _marks(kind: inspect.Metadata) -> Document:
    """What is said of a field beside its type: `x-redactable`, `x-pseudonym`."""
    return {f"x-{name}": mark for name, mark in sorted((kind.extra or {}).items())}


def _key_marks(kind: inspect.DictType) -> Document:
    return {"propertyNames": _marks(kind.key_type)} if isinstance(kind.key_type, inspect.Metadata) else {}


def _bounds(kind: inspect.Type) -> Document:
    """What a number may not go beyond."""
    if not isinstance(kind, inspect.IntType | inspect.FloatType):
        return {}
    return {name: limit for name, limit in (("minimum", kind.ge), ("maximum", kind.le)) if limit is not None}


def _default(field: inspect.Field) -> Document:
    if field.required:
        return {}
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return {"default": msgspec.to_builtins(value, enc_hook=codec.unit_to_text)}


def _values(kind: inspect.EnumType) -> list[str]:
    return [member.value for member in kind.cls]


def _doc(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _channel(spec: TopicSpec) -> Document:
    return {
        "address": f"{_PREFIX_PARAMETER}.{spec.topic.value}",
        "parameters": {"prefix": {"default": topics.DEFAULT_PREFIX, "description": "separates installations on one broker"}},
        "messages": {message.__name__: {"$ref": f"#/components/messages/{message.__name__}"} for message in spec.messages},
        "bindings": {
            "kafka": {
                "partitions": spec.partitions,
                "topicConfiguration": {
                    "cleanup.policy": [spec.cleanup.value],
                    **({"retention.ms": spec.retention_ms} if spec.retention_ms is not None else {}),
                },
                "bindingVersion": "0.5.0",
            },
        },
        "description": f"Keyed by {spec.key}.",
    }


def _operation(verb: str, spec: TopicSpec) -> Document:
    return {"action": verb, "channel": {"$ref": f"#/channels/{spec.topic.value}"}}


def _message(message: type[msgspec.Struct]) -> Document:
    return {
        "name": message.__name__,
        "summary": _doc(message),
        "payload": {"$ref": f"#/components/schemas/{message.__name__}"},
    }


def _rendered(document: Document) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def main() -> None:
    """Write `schemas/` below the current folder, or the folder given."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "schemas")
    for path in write(folder):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
