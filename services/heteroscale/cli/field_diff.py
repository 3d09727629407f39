"""What differs between two documents, field by field, by dotted path."""

from __future__ import annotations

from typing import Any, NamedTuple


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


def differences(before: Any, after: Any) -> list[Change]:
    """The leaves that differ, in the order of the fields of `after`, then those that it lacks. Null: an empty document."""
    old, new = flat(before), flat(after)
    fields = [*new, *(field for field in old if field not in new)]
    return [Change(field, old.get(field), new.get(field)) for field in fields if old.get(field) != new.get(field)]


def flat(document: Any) -> dict[str, Any]:
    """Leaves by path: `roles.decode.min`, `signals[0].target`. A list of plain values is one leaf."""
    leaves: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else key)
        elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
            for index, inner in enumerate(value):
                walk(inner, f"{path}[{index}]")
        else:
            leaves[path] = value

    if document is not None:
        walk(document, "")
    return leaves


def _short(value: Any) -> str:
    if value is None:
        return "(absent)"
    return "[" + ", ".join(str(item) for item in value) + "]" if isinstance(value, list) else str(value)
