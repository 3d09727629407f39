"""Messages to bytes and back: JSON by msgspec, keys of maps in sorted order, so that equal messages are equal bytes."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.units import Duration, Instant, Percent

M = TypeVar("M")
_UNITS = (Duration, Percent, Instant)


def unit_from_text(kind: type[Any], value: object) -> object:
    """Msgspec `dec_hook` for the unit types."""
    for unit in _UNITS:
        if kind is unit:
            return unit.parse(value)
    raise NotImplementedError(f"no decoding for {kind}")


def unit_to_text(value: object) -> str:
    """Msgspec `enc_hook` for the unit types."""
    if isinstance(value, _UNITS):
        return str(value)
    raise NotImplementedError(f"no encoding for {type(value)}")


_encoder = msgspec.json.Encoder(enc_hook=unit_to_text, order="deterministic")


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """The one decoder of a message type or union (typed: a single pass decodes and validates)."""
    if kind not in _decoders:
        _decoders[kind] = msgspec.json.Decoder(kind, dec_hook=unit_from_text)
    return _decoders[kind]


def encode(message: msgspec.Struct) -> bytes:
    """Canonical bytes of a message."""
    return _encoder.encode(message)


def decode(kind: type[M], payload: bytes | str) -> M:
    """A message from bytes. Raises Rejected (`undecodable` or `invalid`) with the path of the offending field."""
    try:
        message: M = decoder(kind).decode(payload)
        return message
    except msgspec.ValidationError as error:
        raise Rejected("invalid", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Rejected("undecodable", str(error)) from error
    except RecursionError as error:
        raise Rejected("undecodable", "nested too deeply") from error


def convert(kind: type[M], document: object) -> M:
    """A message from an untyped document (YAML, plain dicts). Raises Rejected (`invalid`)."""
    try:
        return msgspec.convert(document, kind, dec_hook=unit_from_text)
    except msgspec.ValidationError as error:
        raise Rejected("invalid", str(error)) from error


def to_document(message: msgspec.Struct) -> dict[str, Any]:
    """A message as plain dicts, lists, strings and numbers."""
    document: dict[str, Any] = msgspec.json.decode(encode(message))
    return document


def digest(message: msgspec.Struct) -> str:
    """First 16 hex digits of sha256 over the canonical bytes."""
    return hashlib.sha256(encode(message)).hexdigest()[:16]
