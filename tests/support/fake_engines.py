"""Engines that are only their metric pages, over loopback HTTP; some behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import Callable
from typing import Self

_RAW = {
    "not-http": b"\x00\xff\xfe nonsense\r\n\r\n",
    "hangs-up": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nvllm:generation",
    "cut-off": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nvllm:generation_tokens_total 12",
    "redirects": b"HTTP/1.1 302 Found\r\nLocation: /redirects\r\nContent-Length: 0\r\n\r\n",
    "breaks": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
}


def vllm_page(tokens: int, *, running: int = 4, engine: str = "0") -> bytes:
    """What a serving vLLM says, as far as the exporter cares, with some of what it does not."""
    labels = f'engine="{engine}",model_name="m"'
    lines = [
        "# HELP vllm:generation_tokens_total Number of generation tokens processed.",
        "# TYPE vllm:generation_tokens_total counter",
        f"vllm:generation_tokens_total{{{labels}}} {float(tokens)}",
        f"vllm:prompt_tokens_total{{{labels}}} {float(tokens * 2)}",
        f"vllm:num_requests_running{{{labels}}} {float(running)}",
        f"vllm:num_requests_waiting{{{labels}}} 0.0",
        f"vllm:kv_cache_usage_perc{{{labels}}} 0.25",
        "process_start_time_seconds 1.7e+09",
    ]
    edges = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds"):
        lines += [f'vllm:{name}_bucket{{{labels},le="{edge}"}} {float(tokens * n)}' for n, edge in enumerate(edges)]
        lines += [f'vllm:{name}_bucket{{{labels},le="+Inf"}} {float(tokens * 7)}', f"vllm:{name}_count{{{labels}}} {float(tokens * 7)}"]
        lines.append(f"vllm:{name}_sum{{{labels}}} {tokens * 0.5}")
    return ("\n".join(lines) + "\n").encode()


class FakeEngines:
    """One listener; each path is an engine. `pages` are asked for at each request; some paths do what their name says."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[], bytes]] = {}
        self.asked: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._server.wait_closed()

    def url(self, path: str) -> str:
        """Where a path is."""
        return f"http://127.0.0.1:{self._port}/{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode().lstrip("/")
                self.asked[path] = self.asked.get(path, 0) + 1
                await self._answer(path, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        page = self.pages.get(path)
        if path == "silent":
            await asyncio.sleep(30)
        elif path == "trickle":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(300):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.1)
        elif path == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            block = b"a_metric 1\n" * 10_000
            while True:
                writer.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
                await writer.drain()
        elif path in _RAW:
            writer.write(_RAW[path])
            writer.close()
        elif path == "bomb":
            self._send(writer, gzip.compress(b"\x00" * 10_000_000), "Content-Encoding: gzip\r\n")
        elif page is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            self._send(writer, page())
        await writer.drain()

    @staticmethod
    def _send(writer: asyncio.StreamWriter, body: bytes, headers: str = "") -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)
