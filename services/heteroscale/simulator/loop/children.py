"""The services as separate processes: `heteroscale run NAME`, each in a process group of its own, stopped by pid, logs kept."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from heteroscale.contracts.errors import Broken

STOP_WITHIN_S: Final = 15.0
TAIL_LINES: Final = 12


@dataclass(slots=True)
class Child:
    """One running service."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-TAIL_LINES:])


@dataclass(slots=True)
class Children:
    """All services of one run; leaves none behind."""

    environment: Mapping[str, str]
    folder: Path
    running: list[Child] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self, name: str, environment: Mapping[str, str]) -> None:
        """Start `heteroscale run NAME` in a new session: Ctrl-C at the terminal reaches the parent alone, which stops its children."""
        log = self.folder / f"{name}.log"
        command = [sys.executable, "-m", "heteroscale.cli.main", "run", name]
        merged = {**os.environ, **self.environment, **environment}  # noqa: TID251 - a child inherits it
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=merged, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
        self.running.append(Child(name, process, log))

    def died(self) -> str | None:
        """The first service that has ended, with its last words."""
        for child in self.running:
            code = child.process.poll()
            if code is not None:
                return f"{child.name} ended with exit code {code}; {child.log}:\n{child.tail()}"
        return None

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to what is left of each group after a deadline."""
        for child in self.running:
            _signal(child, signal.SIGTERM)
        for child in self.running:
            try:
                child.process.wait(timeout=STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                _signal(child, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(timeout=STOP_WITHIN_S)
        self.running.clear()

    def require(self) -> None:
        """Raises Broken if a service has ended."""
        died = self.died()
        if died is not None:
            raise Broken(died)


def _signal(child: Child, number: signal.Signals) -> None:
    """To the whole group of a child that we started."""
    if child.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)
