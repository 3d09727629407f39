"""A bundle as one file: .tar.zst. Packed and unpacked as a stream; nothing outside the target folder is ever written."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import cramjam

from heteroscale.contracts.errors import Rejected
from heteroscale.replay import bundle, frames
from heteroscale.replay.bundle import Bundle

SUFFIX: Final = ".tar.zst"


class _FrameSink(io.RawIOBase):
    """A file object that writes zstd frames of bounded size."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb")
        self._waiting = bytearray()

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, piece: object) -> int:
        """Collect, and write a frame once it is full."""
        given = bytes(piece)  # type: ignore[call-overload] # tarfile hands over buffers
        self._waiting += given
        if len(self._waiting) >= frames.FRAME_BYTES:
            self._flush_frame()
        return len(given)

    def close(self) -> None:
        """Write what is left."""
        if not self.closed:
            self._flush_frame()
            self._file.close()
        super().close()

    def _flush_frame(self) -> None:
        if self._waiting:
            self._file.write(bytes(cramjam.zstd.compress(bytes(self._waiting), level=1)))  # the topics inside are compressed already
            self._waiting.clear()


class _FrameSource(io.RawIOBase):
    """A file object over the content of a .zst file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._blocks = frames.blocks(path)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill a buffer."""
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type] # RawIOBase hands over writable buffers
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def pack(folder: Path, target: Path) -> None:
    """Write a bundle directory as a .tar.zst. The same bundle gives the same bytes."""
    with _FrameSink(target) as sink, tarfile.open(fileobj=io.BufferedWriter(sink), mode="w|") as tar:
        for path in sorted(folder.rglob("*")):
            info = tar.gettarinfo(str(path), arcname=str(path.relative_to(folder)))
            info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode = 0, 0, 0, "", "", 0o755 if path.is_dir() else 0o644
            if path.is_dir():
                tar.addfile(info)
            else:
                with path.open("rb") as file:
                    tar.addfile(info, file)


def unpack(source: Path, folder: Path) -> None:
    """Unpack into an empty folder. Raises Rejected (`damaged`)."""
    try:
        with tarfile.open(fileobj=io.BufferedReader(_FrameSource(source)), mode="r|") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise Rejected("damaged", f"cannot be unpacked: {error}; {bundle.AGAIN}", str(source)) from error


@contextmanager
def opened(path: Path, *, check: bool = True) -> Iterator[Bundle]:
    """A bundle, whichever form it has; an archive is unpacked for as long as it is used. Raises Rejected."""
    if path.is_dir():
        yield bundle.open_folder(path, check=check)
        return
    if not path.is_file():
        raise Rejected("no_bundle", "there is no such bundle; heteroscale incident capture makes one", str(path))
    with TemporaryDirectory(prefix="heteroscale-incident-") as own:
        unpack(path, Path(own))
        yield bundle.open_folder(Path(own), check=check)
