"""The base of all messages."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Frozen, keyword-only, tolerant of fields that a newer writer added. Absent is null, written out."""
