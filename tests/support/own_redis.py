"""A redis-server of a test's own, to be killed and cut short; and a TCP proxy in front of one, to lose its replies."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from support.processes import free_port

UP_WITHIN_S = 10.0


class OwnRedis:
    """appendonly yes, appendfsync always, in a directory of its own. Ended on exit."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def possible() -> bool:
        """Whether there is a redis-server to start."""
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers."""
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--aof-load-truncated", "yes"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", *fixed, *durable, *self._options], stdout=log, stderr=log)
        deadline = time.monotonic() + UP_WITHIN_S
        with contextlib.closing(redis.Redis(port=self.port)) as probe:
            while True:
                try:
                    probe.ping()
                except redis.RedisError:
                    assert time.monotonic() < deadline, (self.directory / "log").read_text()[-2_000:]
                    time.sleep(0.02)
                else:
                    return

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def cut_short(self, count: int) -> None:
        """Take the last bytes off the append-only file, as a machine that lost power may. Only while it is down."""
        (newest,) = self.directory.glob("appendonlydir/*.incr.aof")
        content = newest.read_bytes()
        newest.write_bytes(content[: max(0, len(content) - count)])

    @property
    def log_size(self) -> int:
        """Bytes in the append-only file."""
        (newest,) = self.directory.glob("appendonlydir/*.incr.aof")
        return newest.stat().st_size


class Proxy:
    """Hands bytes on to a server. `lose_replies`: so many exchanges from now on reach the server and get no answer."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.lose_replies = 0
        self.lost = 0

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Let go."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(self._hand_on(reader, back), self._answer(there, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, back):
                end.close()
            self._tasks.discard(task)

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(65_536):
            writer.write(content)
            await writer.drain()
        raise ConnectionResetError

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(65_536):
            if self.lose_replies > 0:
                self.lose_replies -= 1
                self.lost += 1
                raise ConnectionResetError
            writer.write(content)
            await writer.drain()
        raise ConnectionResetError
