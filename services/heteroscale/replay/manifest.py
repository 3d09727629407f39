"""What a bundle says of itself: `manifest.json`. The written specification of the format is docs/replay.md."""

from __future__ import annotations

from typing import Final

import msgspec

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.message import Message
from heteroscale.contracts.names import FleetName, ServiceName

FORMAT: Final = "heteroscale-incident"
VERSION: Final = 1
NAME: Final = "manifest.json"


class Span(Message, frozen=True, kw_only=True):
    """Instants in Unix milliseconds; both ends belong to it."""

    from_ms: int
    to_ms: int


class Part(Message, frozen=True, kw_only=True):
    """What was taken of one partition: offsets [from_offset, next_offset), `records` of them kept.

    `missing`: the instants whose records the log had already deleted when the bundle was made.
    """

    from_offset: int
    next_offset: int
    records: int
    missing: Span | None = None


class TopicPart(Message, frozen=True, kw_only=True):
    """One topic: its file in the bundle and what of each partition is in it (keys are partition numbers as text)."""

    file: str
    partitions: dict[str, Part]

    @property
    def records(self) -> int:
        """Records of all partitions."""
        return sum(part.records for part in self.partitions.values())


class FileMark(Message, frozen=True, kw_only=True):
    """A file as it was written."""

    sha256: str
    bytes: int


class Made(Message, frozen=True, kw_only=True):
    """What wrote the bundle."""

    heteroscale: str
    policy_version: int


class Redactions(Message, frozen=True, kw_only=True):
    """What was taken out or renamed before writing: fields by name, and kinds of names that are pseudonyms."""

    fields: list[str] = msgspec.field(default_factory=list)
    pseudonyms: list[str] = msgspec.field(default_factory=list)


class Manifest(Message, frozen=True, kw_only=True):
    """The bundle. `services` and `fleets` are those it is about; `window` is what was asked for, lead-in excluded."""

    format: str
    version: int
    made: Made
    prefix: str
    window: Span
    services: list[ServiceName]
    fleets: list[FleetName]
    topics: dict[str, TopicPart]
    cuts: dict[str, int]
    spec_revisions: dict[ServiceName, list[int]] = msgspec.field(default_factory=dict)
    redactions: Redactions = Redactions()
    files: dict[str, FileMark] = msgspec.field(default_factory=dict)


class _Head(msgspec.Struct):
    """Enough to tell whether the rest can be read."""

    format: str = ""
    version: int = 0


def read(payload: bytes, place: str) -> Manifest:
    """Raises Rejected: `no_bundle`, `unknown_version`, `invalid`."""
    try:
        head = msgspec.json.decode(payload, type=_Head)
    except msgspec.MsgspecError as error:
        raise Rejected("no_bundle", f"is no manifest of a bundle: {error}; copy the bundle or capture it again", place) from error
    if head.format != FORMAT:
        raise Rejected("no_bundle", f"format is {head.format!r}, not {FORMAT!r}", place)
    if head.version != VERSION:
        cure = "use the release that wrote it" if head.version < VERSION else "a newer release wrote it; upgrade"
        raise Rejected("unknown_version", f"format version {head.version}, and this build reads {VERSION}; {cure}", place)
    try:
        whole = msgspec.json.decode(payload, type=Manifest)
    except msgspec.MsgspecError as error:
        raise Rejected("invalid", str(error), place) from error
    for name, topic in whole.topics.items():
        strange = next((key for key in topic.partitions if not (key.isascii() and key.isdigit())), None)
        if strange is not None:
            raise Rejected("invalid", f"{strange!r} is no partition number - at `$.topics.{name}.partitions`", place)
    return whole
