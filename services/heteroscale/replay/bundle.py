"""An incident on disk: a directory (or a .tar.zst of one) with a manifest and each topic's records as they were recorded.

    manifest.json                 what is in it, from where, with the sha256 of every other file
    topics/<name>.jsonl.zst       one record a line: partition, offset, timestamp, key, value
    decisions.jsonl  README.txt   for people

Keys and values keep their recorded bytes: a value that is one line of JSON stands in the line as it is, anything else as base64.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.replay import frames, manifest
from heteroscale.replay.frames import FrameWriter
from heteroscale.replay.manifest import FileMark, Manifest, Part, TopicPart

TOPICS: Final = "topics"
DECISIONS: Final = "decisions.jsonl"
README: Final = "README.txt"
CHUNK: Final = 1 << 20
AGAIN: Final = frames.AGAIN
VALUE: Final = b',"value":'
HEAD_BYTES: Final = 1_000
LONG_BYTES: Final = 4_000
NULL: Final = msgspec.Raw(b"null")


class Line(msgspec.Struct, omit_defaults=True):
    """One record in a topic's file. `value` absent: a tombstone, unless `value_base64` is there."""

    partition: int
    offset: int
    timestamp: int
    key: str | None = None
    key_base64: str | None = None
    value: msgspec.Raw = NULL
    value_base64: str | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)
_any = msgspec.json.Decoder()


def to_line(record: Record) -> bytes:
    """A record as a line, without its line feed."""
    line = Line(record.partition, record.offset, record.timestamp_ms)
    if record.key is not None:
        try:
            line.key = record.key.decode()
        except UnicodeDecodeError:
            line.key_base64 = base64.b64encode(record.key).decode()
    if record.value is not None:
        if _stands_as_is(record.value):
            line.value = msgspec.Raw(record.value)
        else:
            line.value_base64 = base64.b64encode(record.value).decode()
    return _encoder.encode(line)


def _stands_as_is(value: bytes) -> bool:
    """Whether it is JSON on one line (and not the bare word null, which says tombstone)."""
    if b"\n" in value or b"\r" in value or value.strip() in {b"null", b""} or value != value.strip():
        return False
    try:
        _any.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def from_line(payload: bytes, topic: str) -> Record:
    """Raises msgspec.MsgspecError, ValueError.

    In a long line the value, which is written last, is cut out without a look inside: who asked for it decodes it anyway.
    """
    cut = payload.find(VALUE, 0, HEAD_BYTES) if len(payload) > LONG_BYTES else -1
    if cut > 0:
        line = _decoder.decode(payload[:cut] + b"}")
        return Record(topic, line.partition, line.offset, line.timestamp, _key_of(line), payload[cut + len(VALUE) : -1])
    line = _decoder.decode(payload)
    value: bytes | None = bytes(line.value)
    if line.value_base64 is not None:
        value = base64.b64decode(line.value_base64)
    elif value == b"null":
        value = None
    return Record(topic, line.partition, line.offset, line.timestamp, _key_of(line), value)


def _key_of(line: Line) -> bytes | None:
    if line.key_base64 is not None:
        return base64.b64decode(line.key_base64)
    return None if line.key is None else line.key.encode()


@dataclass(slots=True)
class Taken:
    """What the writer noted of one partition."""

    from_offset: int
    next_offset: int
    records: int = 0
    missing: manifest.Span | None = None


class BundleWriter:
    """Writes a bundle directory, record by record. Memory: one frame a topic."""

    def __init__(self, folder: Path, prefix: str) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Rejected("exists", "exists already and is not an empty directory; name another with -o", str(folder))
        self.folder = folder
        self.prefix = prefix
        (folder / TOPICS).mkdir(parents=True, exist_ok=True)
        self._writers: dict[Topic, FrameWriter] = {}
        self._taken: dict[Topic, dict[int, Taken]] = {}
        self._decisions = (folder / DECISIONS).open("wb")

    def covers(self, topic: Topic, partition: int, taken: Taken) -> None:
        """Say what of a partition the bundle is to hold."""
        self._taken.setdefault(topic, {})[partition] = taken
        if topic not in self._writers:
            self._writers[topic] = FrameWriter(self.folder / TOPICS / f"{topic.value}.jsonl.zst")

    def write(self, topic: Topic, record: Record) -> None:
        """One record of a partition that `covers` named, in offset order within its partition."""
        self._taken[topic][record.partition].records += 1
        self._writers[topic].write(to_line(record))
        if topic is Topic.DECISIONS and record.value is not None:
            self._decisions.write(record.value + b"\n")

    def discard(self) -> None:
        """Take away what was written: half a bundle is none."""
        self._decisions.close()
        for writer in self._writers.values():
            writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self, about: Manifest, readme: str) -> Manifest:
        """Close the files and write the manifest: `about` with topics, cuts and files filled in."""
        self._decisions.close()
        (self.folder / README).write_text(readme)
        files: dict[str, FileMark] = {}
        topics: dict[str, TopicPart] = {}
        for topic, writer in sorted(self._writers.items()):
            name = f"{TOPICS}/{topic.value}.jsonl.zst"
            files[name] = FileMark(sha256=writer.close(), bytes=writer.bytes_written)
            topics[topic.value] = TopicPart(file=name, partitions={str(at): _part(one) for at, one in sorted(self._taken[topic].items())})
        for name in (DECISIONS, README):
            files[name] = mark_of(self.folder / name)
        cuts = {
            f"{topic_name(self.prefix, topic)}-{partition}": one.next_offset
            for topic, parts in sorted(self._taken.items())
            for partition, one in sorted(parts.items())
        }
        whole = msgspec.structs.replace(about, topics=topics, cuts=cuts, files=dict(sorted(files.items())))
        write_manifest(self.folder, whole)
        return whole


def _part(taken: Taken) -> Part:
    return Part(from_offset=taken.from_offset, next_offset=taken.next_offset, records=taken.records, missing=taken.missing)


def write_manifest(folder: Path, whole: Manifest) -> None:
    """`manifest.json`, indented for people."""
    (folder / manifest.NAME).write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")


def mark_of(path: Path) -> FileMark:
    """sha256 and size of a file, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            size += len(piece)
    return FileMark(sha256=digest.hexdigest(), bytes=size)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle directory that was opened."""

    folder: Path
    manifest: Manifest
    _counted: dict[Topic, dict[int, int]] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """The topics' prefix where it was recorded."""
        return self.manifest.prefix

    def name(self, topic: Topic) -> str:
        """A topic's full name where it was recorded."""
        return topic_name(self.manifest.prefix, topic)

    def at(self, topic: Topic, partition: int) -> str:
        """`topic-partition`, as cuts name it."""
        return f"{self.name(topic)}-{partition}"

    def of(self, services: Iterable[ServiceName]) -> Bundle:
        """The same bundle, asked about some of its services only. Raises Rejected (`unknown_service`)."""
        wanted = sorted(set(services))
        strange = next((name for name in wanted if name not in self.manifest.services), None)
        if strange is not None:
            raise Rejected("unknown_service", f"is not in this bundle; it has {', '.join(self.manifest.services)}", strange)
        return Bundle(self.folder, msgspec.structs.replace(self.manifest, services=wanted))

    def parts(self, topic: Topic) -> dict[int, Part]:
        """What is held of each partition of a topic."""
        found = self.manifest.topics.get(topic.value)
        return {} if found is None else {int(partition): part for partition, part in found.partitions.items()}

    def records(self, topic: Topic) -> Iterator[Record]:
        """All records of a topic, in offset order within each partition. Raises Rejected (`damaged`)."""
        found = self.manifest.topics.get(topic.value)
        if found is None:
            return
        path, name = self.folder / found.file, self.name(topic)
        last: dict[int, int] = {}
        counts: dict[int, int] = {}
        for number, line in enumerate(frames.lines(path), start=1):
            try:
                record = from_line(line, name)
            except (msgspec.MsgspecError, ValueError) as error:
                raise Rejected("damaged", f"is no record: {error}", f"{path}:{number}") from error
            if record.offset <= last.get(record.partition, -1):
                raise Rejected("damaged", f"offset {record.offset} of partition {record.partition} comes too late", f"{path}:{number}")
            last[record.partition] = record.offset
            counts[record.partition] = counts.get(record.partition, 0) + 1
            yield record
        self._counted[topic] = counts

    def lacking(self) -> list[str]:
        """Partitions with fewer records than the manifest says, of topics that were read to their end."""
        found: list[str] = []
        for topic, counts in sorted(self._counted.items()):
            for partition, part in sorted(self.parts(topic).items()):
                if counts.get(partition, 0) != part.records:
                    found.append(f"{self.at(topic, partition)} has {counts.get(partition, 0)} records, the manifest says {part.records}")
        return found

    def check(self) -> None:
        """Every file is as it was written. Raises Rejected (`damaged`) that names the one that is not."""
        for name, mark in sorted(self.manifest.files.items()):
            path = self.folder / name
            if not path.is_file():
                raise Rejected("damaged", f"is missing from the bundle; {AGAIN}", str(path))
            found = mark_of(path)
            if found != mark:
                what = f"has {found.bytes} bytes, not {mark.bytes}" if found.bytes != mark.bytes else "sha256 differs"
                raise Rejected("damaged", f"is not as it was written ({what}); {AGAIN}", str(path))
        for topic in self.manifest.topics.values():
            if topic.file not in self.manifest.files or not (self.folder / topic.file).resolve().is_relative_to(self.folder.resolve()):
                raise Rejected("damaged", f"names {topic.file}, which it does not list", str(self.folder / manifest.NAME))


def open_folder(folder: Path, *, check: bool = True) -> Bundle:
    """A bundle directory. Raises Rejected: `no_bundle`, `unknown_version`, `invalid`, `damaged`."""
    path = folder / manifest.NAME
    if not path.is_file():
        raise Rejected("no_bundle", f"has no {manifest.NAME}; heteroscale incident capture makes a bundle", str(folder))
    found = Bundle(folder, manifest.read(path.read_bytes(), str(path)))
    if check:
        found.check()
    return found
