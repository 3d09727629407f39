"""Files that others read while we write them: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from heteroscale.contracts.errors import Retryable

READABLE = 0o644


def path_of(directory: Path, service: str) -> Path:
    """A service's file; its name is quoted where a path would read it otherwise."""
    return directory / f"{quote(service, safe='')}.json"


def replace(path: Path, payload: bytes) -> bool:
    """Put `payload` at `path` in one step, durable; whether anything changed. Raises Retryable."""
    try:
        if path.exists() and path.read_bytes() == payload:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(READABLE)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise Retryable(f"{path}: {error.strerror or error}") from error
    return True
