"""What differs between two specs, field by field, in the form people write."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
import yaml

from heteroscale.contracts import codec
from heteroscale.contracts.spec import ServiceSpec

WRITTEN_BY_US: Final = frozenset({"revision", "applied_at_ms", "applied_by", "reason"})


class Change(NamedTuple):
    """One field; null stands for absent."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.field}: {_short(self.before)} -> {_short(self.after)}"

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return self._asdict()


def diff(before: ServiceSpec | None, after: ServiceSpec | None) -> list[Change]:
    """The fields that differ, in the order of the fields; what the command line itself writes is left out."""
    old, new = _flat(before), _flat(after)
    fields = [*new, *(field for field in old if field not in new)]
    return [Change(field, old.get(field), new.get(field)) for field in fields if old.get(field) != new.get(field)]


def content(spec: ServiceSpec) -> dict[str, Any]:
    """What people said: the document without what the command line writes and without what is absent."""
    document = codec.to_document(spec)
    return {key: value for key, value in document.items() if key not in WRITTEN_BY_US and value is not None}


def as_yaml(spec: ServiceSpec) -> str:
    """A spec file that says the same."""
    return yaml.safe_dump(content(spec), sort_keys=False, allow_unicode=True, width=120)


def bare(spec: ServiceSpec) -> ServiceSpec:
    """The spec without what the command line writes."""
    return msgspec.structs.replace(spec, revision=None, applied_at_ms=None, applied_by=None, reason=None)


def _flat(spec: ServiceSpec | None) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else key)
        elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
            for index, inner in enumerate(value):
                walk(inner, f"{path}[{index}]")
        else:
            flat[path] = value

    if spec is not None:
        walk(content(spec), "")
    return flat


def _short(value: Any) -> str:
    if value is None:
        return "(absent)"
    return "[" + ", ".join(str(item) for item in value) + "]" if isinstance(value, list) else str(value)
