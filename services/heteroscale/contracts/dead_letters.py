"""dead-letters.v1: records that could not be used, with their place and payload."""

from __future__ import annotations

from heteroscale.contracts.message import FreeBytes, FreeText, Message


class DeadLetter(Message, frozen=True, kw_only=True):
    """One refused record (or one refused sample of a record). `payload` travels as base64."""

    topic: str
    partition: int
    offset: int
    key: str | None
    at_ms: int
    stage: str
    code: str
    message: FreeText
    payload: FreeBytes
