"""Lines in zstd: written as independent frames of bounded size, read back one frame at a time.

A file of concatenated frames is an ordinary .zst file (`zstd -dc` reads it). Frame ends are found from block headers alone
(RFC 8878, 3.1.1), so a reader holds one frame, never the file. A file that somebody wrote as one frame is read whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import cramjam

from heteroscale.contracts.errors import Rejected

FRAME_BYTES: Final = 1 << 20  # uncompressed bytes in a frame
LEVEL: Final = 6
MAGIC: Final = 0xFD2FB528
SKIPPABLE: Final = range(0x184D2A50, 0x184D2A60)
_DICTIONARY_BYTES: Final = (0, 1, 2, 4)
_CONTENT_BYTES: Final = (0, 2, 4, 8)
_RLE: Final = 1
AGAIN: Final = "copy the bundle or capture it again"


class FrameWriter:
    """Appends lines to a file; `close` writes what is left and gives sha256 and size of the whole file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._lines: list[bytes] = []
        self._size = 0
        self.bytes_written = 0

    def write(self, line: bytes) -> None:
        """One line, without its line feed."""
        self._lines.append(line)
        self._size += len(line) + 1
        if self._size >= FRAME_BYTES:
            self._flush()

    def close(self) -> str:
        """Finish the file; its sha256 in hex."""
        if self._lines or not self.bytes_written:
            self._flush()
        self._file.close()
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._file.closed:
            self._file.close()

    def _flush(self) -> None:
        plain = b"\n".join([*self._lines, b""]) if self._lines else b""
        frame = bytes(cramjam.zstd.compress(plain, level=LEVEL))
        self._file.write(frame)
        self._digest.update(frame)
        self.bytes_written += len(frame)
        self._lines, self._size = [], 0


def blocks(path: Path) -> Iterator[bytes]:
    """The file's content, a frame at a time. Raises Rejected (`damaged`)."""
    try:
        with path.open("rb") as file:
            while frame := _frame(file):
                yield bytes(cramjam.zstd.decompress(frame))
    except (cramjam.DecompressionError, EOFError, OSError) as error:
        raise Rejected("damaged", f"cannot be decompressed: {error}; {AGAIN}", str(path)) from error


def lines(path: Path) -> Iterator[bytes]:
    """The file's lines, without line feeds. Raises Rejected (`damaged`)."""
    rest = b""
    for block in blocks(path):
        parts = (rest + block).split(b"\n")
        rest = parts.pop()
        yield from parts
    if rest:
        yield rest


def _frame(file: BinaryIO) -> bytes:
    """The next frame's bytes; empty at the end of the file. Raises EOFError for one that is cut off."""
    head = file.read(4)
    if not head:
        return b""
    magic = int.from_bytes(head, "little")
    if magic in SKIPPABLE:
        size = _exactly(file, 4)
        _exactly(file, int.from_bytes(size, "little"))
        return _frame(file)
    if magic != MAGIC:
        raise EOFError("not a zstd frame")
    parts = [head]
    descriptor = _exactly(file, 1)
    parts.append(descriptor)
    flags = descriptor[0]
    single = bool(flags & 0x20)
    content = _CONTENT_BYTES[flags >> 6] or (1 if single else 0)
    parts.append(_exactly(file, (0 if single else 1) + _DICTIONARY_BYTES[flags & 3] + content))
    last = False
    while not last:
        header = _exactly(file, 3)
        number = int.from_bytes(header, "little")
        last = bool(number & 1)
        size_bytes = 1 if (number >> 1) & 3 == _RLE else number >> 3
        parts += [header, _exactly(file, size_bytes)]
    if flags & 0x04:
        parts.append(_exactly(file, 4))
    return b"".join(parts)


def _exactly(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) != size:
        raise EOFError("the file ends inside a frame")
    return found
