"""Names and ids. Names are written by people and stay plain strings; ids are derived by hashing and are told apart by type.

A name that may have to stay in the house is marked with the kind of its pseudonym.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, NewType, TypeAlias

import msgspec

PSEUDONYM: Final = "pseudonym"  # the mark

ServiceName: TypeAlias = str
FleetName: TypeAlias = str
RoleName: TypeAlias = str
InstanceName: TypeAlias = Annotated[str, msgspec.Meta(extra={PSEUDONYM: "instance"})]
NodeName: TypeAlias = Annotated[str, msgspec.Meta(extra={PSEUDONYM: "node"})]
GpuTypeName: TypeAlias = str

DecisionId = NewType("DecisionId", str)
GangId = NewType("GangId", str)


def short_hash(text: str, digits: int = 16) -> str:
    """First `digits` hex digits of sha256 over the UTF-8 bytes of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def decision_id(service: ServiceName, end_ms: int, spec_revision: int | None, policy_version: int) -> DecisionId:
    """The id of the one decision that a window of a service gets under one spec revision and policy version."""
    return DecisionId(short_hash(f"{service}|{end_ms}|{spec_revision}|{policy_version}"))
