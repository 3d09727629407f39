"""The services as people run them: real processes of the installed command, each with its own log file, stopped by pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND = str(Path(sys.executable).parent / "heteroscale")
READY_WITHIN_S = 60.0


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(kafka: str, redis_url: str, prefix: str, fleet: str) -> dict[str, str]:
    """What the services of a test are started with: its servers and prefix, its own fleet, time as the test has it."""
    return {
        "HETEROSCALE_KAFKA": kafka,
        "HETEROSCALE_REDIS": redis_url,
        "HETEROSCALE_PREFIX": prefix,
        "HETEROSCALE_TICKER": "off",
        "HETEROSCALE_FLEET": fleet,
    }


@dataclass(slots=True)
class Service:
    """One running service process."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(number)

    def ready(self) -> bool:
        """What /readyz says; false while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def tail(self, lines: int = 20) -> str:
        """The last lines it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(slots=True)
class Fleet:
    """All processes of one test; leaves none behind."""

    environment: Mapping[str, str]
    folder: Path
    services: list[Service] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for service in self.services:
            if service.process.poll() is None:
                service.signal(signal.SIGCONT)
                service.process.kill()
            service.process.wait(timeout=10)
        if error is not None:
            error.add_note("\n".join(f"--- {service.log.name}\n{service.tail()}" for service in self.services))

    def start(self, name: str, *, wait: bool = True, extra: Mapping[str, str] | None = None) -> Service:
        """Start `heteroscale run NAME`; returns when it says that it is ready."""
        port = free_port()
        log = self.folder / f"{len(self.services)}-{name}.log"
        environment = {**os.environ, **self.environment, **(extra or {}), "HETEROSCALE_HTTP_PORT": str(port)}
        with log.open("wb") as out:
            process = subprocess.Popen([COMMAND, "run", name], env=environment, cwd=self.folder, stdout=out, stderr=out)
        service = Service(name, process, port, log)
        self.services.append(service)
        if wait:
            self.await_ready(service)
        return service

    def await_ready(self, service: Service) -> None:
        """Wait for /readyz; fails with the log's last lines."""
        until = time.monotonic() + READY_WITHIN_S
        while not service.ready():
            if service.process.poll() is not None:
                raise AssertionError(f"{service.name} ended with {service.process.returncode}:\n{service.tail()}")
            if time.monotonic() > until:
                raise AssertionError(f"{service.name} was not ready after {READY_WITHIN_S} s:\n{service.tail()}")
            time.sleep(0.1)

    def run(self, *arguments: str) -> str:
        """Run one `heteroscale` command to its end; fails with what it said."""
        done = subprocess.run(
            [COMMAND, *arguments],
            env={**os.environ, **self.environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"heteroscale {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout
