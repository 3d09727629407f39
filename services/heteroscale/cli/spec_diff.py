"""What differs between two specs, field by field, in the form people write."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import yaml

from heteroscale.cli.field_diff import Change, differences
from heteroscale.contracts import codec
from heteroscale.contracts.spec import ServiceSpec

WRITTEN_BY_US: Final = frozenset({"revision", "applied_at_ms", "applied_by", "reason"})


def diff(before: ServiceSpec | None, after: ServiceSpec | None) -> list[Change]:
    """The fields that differ, in the order of the fields; what the command line itself writes is left out."""
    old, new = (None if spec is None else content(spec) for spec in (before, after))
    return differences(old, new)


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
