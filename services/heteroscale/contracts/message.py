"""The base of all messages, and the numbers that cannot be below zero."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

REDACTABLE: Final = "redactable"  # the mark of what people or other programs wrote, and may have to stay in the house
LAST_MS = 253_402_300_799_999  # the end of the year 9999: beyond it no calendar can say when
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
AtMs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LAST_MS)]  # an instant in Unix milliseconds
Rate: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
FreeText: TypeAlias = Annotated[str, msgspec.Meta(extra={REDACTABLE: True})]
FreeBytes: TypeAlias = Annotated[bytes, msgspec.Meta(extra={REDACTABLE: True})]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Frozen, keyword-only, tolerant of fields that a newer writer added. Absent is null, written out."""
