"""What this machine runs for us: one JSON file in the cache folder, changed under a file lock.

Servers started for a test or a demo belong to the process that started them (`owner`); when that process is gone, however
it went, the next caller stops what it left behind. Servers without an owner stay until `heteroscale servers down`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from heteroscale.servers import process
from heteroscale.servers.process import ProcessId


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One server that was started here. Exactly one of `process` and `container` is set."""

    name: str
    how: str
    address: str
    port: int
    data: str
    log: str | None = None
    process: ProcessId | None = None
    container: str | None = None
    owner: ProcessId | None = None

    @property
    def lasting(self) -> bool:
        """Whether it stays when the command that started it ends."""
        return self.owner is None


class _State(msgspec.Struct, kw_only=True):
    servers: list[Entry] = []


def cache_folder() -> Path:
    """`HETEROSCALE_CACHE`, else `.cache` in the current folder; absolute."""
    return Path(os.environ.get("HETEROSCALE_CACHE") or ".cache").absolute()


def servers_folder() -> Path:
    """Where data, logs and the ledger are; made if missing."""
    folder = cache_folder() / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def entries() -> list[Entry]:
    """All recorded servers, running or not."""
    return _read().servers


def add(entry: Entry) -> None:
    """Record a server that has just been started."""
    with _locked() as state:
        state.servers = [known for known in state.servers if known.data != entry.data] + [entry]


def remove(entry: Entry) -> None:
    """Forget a server."""
    with _locked() as state:
        state.servers = [known for known in state.servers if known != entry]


def orphans() -> list[Entry]:
    """Servers whose owner is gone."""
    return [entry for entry in entries() if entry.owner is not None and not process.runs(entry.owner)]


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Hold a named lock of this cache folder: one download, one `up` at a time."""
    with (servers_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _path() -> Path:
    return servers_folder() / "state.json"


def _read() -> _State:
    try:
        return msgspec.json.decode(_path().read_bytes(), type=_State)
    except (FileNotFoundError, msgspec.DecodeError):
        return _State()


@contextmanager
def _locked() -> Iterator[_State]:
    with exclusive("state"):
        state = _read()
        yield state
        fresh = _path().with_suffix(f".{os.getpid()}")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        fresh.replace(_path())
