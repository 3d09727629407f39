"""What differs between the nodes on fleet.v1 and those of a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from heteroscale.contracts import codec, keys
from heteroscale.contracts.fleet import FleetNode

SIGNS: Final = {"created": "+", "removed": "-", "changed": "~"}
NOT_COMPARED: Final = frozenset({"observed_at_ms"})


class Difference(msgspec.Struct, frozen=True):
    """One node: what an import with --prune would make of it, and its fields before and after (only those that differ)."""

    fleet: str
    node: str
    what: Literal["created", "removed", "changed"]
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}


def between(known: Iterable[FleetNode], wanted: Iterable[FleetNode]) -> list[Difference]:
    """In the order of fleet and node; only fleets that the wanted nodes belong to."""
    after = {keys.node_key(node.fleet, node.node): node for node in wanted}
    fleets = {node.fleet for node in after.values()}
    before = {keys.node_key(node.fleet, node.node): node for node in known if node.fleet in fleets}
    found: list[Difference] = []
    for key in sorted({*before, *after}):
        old, new = _fields(before.get(key)), _fields(after.get(key))
        differing = [field for field in {**old, **new} if old.get(field) != new.get(field)]
        if differing:
            node = after.get(key) or before[key]
            what: Literal["created", "removed", "changed"] = "created" if not old else "removed" if not new else "changed"
            found.append(Difference(node.fleet, node.node, what, _only(old, differing), _only(new, differing)))
    return found


def line(one: Difference) -> str:
    """A difference for people."""
    if one.what == "changed":
        fields = [f"{field}: {one.before.get(field)} -> {one.after.get(field)}" for field in {**one.before, **one.after}]
    else:
        fields = [f"{field}: {value}" for field, value in (one.after or one.before).items()]
    return f"{SIGNS[one.what]} {one.fleet}/{one.node}  {', '.join(fields)}"


def _fields(node: FleetNode | None) -> dict[str, Any]:
    """Flat, without the name and what an import does not compare."""
    if node is None:
        return {}
    document = {key: value for key, value in codec.to_document(node).items() if key not in NOT_COMPARED | {"fleet", "node", "at", "v"}}
    place = {f"at.{level}": value for level, value in codec.to_document(node.at).items() if value is not None}
    return {**document, **place}


def _only(fields: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    return {field: fields[field] for field in wanted if field in fields}
