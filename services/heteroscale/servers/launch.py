"""What starting any server has in common: a place, a port nobody has, and nothing left behind when it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from heteroscale.servers import ledger, probe, process
from heteroscale.servers.failure import PortTaken
from heteroscale.servers.ledger import Entry
from heteroscale.servers.process import ProcessId

Report: TypeAlias = Callable[[str], None]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is to run: a port (null: any free one), its folder, and who owns it (null: nobody, it stays)."""

    port: int | None
    folder: Path
    owner: ProcessId | None


def claim_port(place: Place, option: str) -> int:
    """The port asked for, or a free one. Raises PortTaken."""
    port = place.port or probe.free_port()
    if not probe.is_free(port):
        raise PortTaken(f"port {port} is in use", cure=f"stop what listens there, or choose another with {option}")
    return port


def native(entry: Entry, argv: Sequence[str], answers: Callable[[], bool], *, deadline_s: float) -> Entry:
    """Start a process, record it, wait until it answers. Raises ServerFailure; then nothing is left running."""
    log = Path(entry.data) / f"{entry.name}.log"
    started = process.start(argv, log=log)
    recorded = msgspec.structs.replace(entry, process=started, log=str(log))
    try:
        ledger.add(recorded)
        process.wait_ready(entry.name, started, answers, log=log, deadline_s=deadline_s)
    except BaseException:
        process.stop(started)
        ledger.remove(recorded)
        raise
    return recorded
