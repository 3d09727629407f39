"""What a process tells over HTTP: /healthz, /readyz, /metrics, and JSON documents that services register. Reading only.

A small server on asyncio streams: GET and HEAD, one request a connection, bounded in time and size, on loopback unless told
otherwise. It knows nothing of what it shows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import orjson

from heteroscale.contracts.errors import Rejected
from heteroscale.runtime.health import Health
from heteroscale.runtime.metrics import Metrics

REQUEST_LIMIT_S: Final = 5.0
HEAD_BYTES_MAX: Final = 16 * 1024
JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Response(NamedTuple):
    """What is sent back."""

    status: int
    content_type: str
    body: bytes


Handler = Callable[[Mapping[str, str]], Response]
Document = Callable[[Mapping[str, str]], object]


class HttpServer:
    """The HTTP side of one process. `documents` are answers by path that services put there, also later; a Rejected is a 400."""

    def __init__(self, health: Health, metrics: Metrics, documents: Mapping[str, Document] | None = None) -> None:
        self._health = health
        self._documents = {} if documents is None else documents
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._routes: dict[str, Handler] = {
            "/healthz": lambda _: Response(200, TEXT, b"ok\n"),
            "/readyz": lambda _: self._ready(),
            "/metrics": lambda _: Response(200, PROMETHEUS, self._metrics.page()),
        }

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which is any free one for 0. Raises Rejected (`port`) that says what to do."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port)
        except OSError as error:
            raise Rejected("port", f"{error.strerror or error}; set HETEROSCALE_HTTP_PORT=0 for any free port", f"{host}:{port}") from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REQUEST_LIMIT_S):
                    await server.wait_closed()

    def _document(self, path: str) -> Handler | None:
        """What a service has put at `path`, as JSON."""
        document = self._documents.get(path)
        return None if document is None else lambda query: Response(200, JSON, orjson.dumps(document(query)) + b"\n")

    def _ready(self) -> Response:
        report = {"ready": self._health.ready, "waiting": self._health.report()}
        return Response(200 if self._health.ready else 503, JSON, orjson.dumps(report) + b"\n")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, answer = self._answer(head)
                writer.write(_rendered(method, answer))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # a client that does not finish its request gets no answer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> tuple[str, Response]:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or len(head) > HEAD_BYTES_MAX:
            return "GET", Response(400, TEXT, b"this is not an HTTP request\n")
        method, target, _ = words
        if method not in {"GET", "HEAD"}:
            return method, Response(405, TEXT, b"only GET and HEAD\n")
        parts = urlsplit(target)
        handler = self._routes.get(parts.path) or self._document(parts.path)
        if handler is None:
            paths = sorted({*self._routes, *self._documents})
            return method, Response(404, TEXT, ("there are " + ", ".join(paths) + "\n").encode())
        try:
            return method, handler(dict(parse_qsl(parts.query)))
        except Rejected as error:
            return method, Response(400, TEXT, f"{error}\n".encode())
        except Exception as error:  # noqa: BLE001 - a page that fails must not take the process with it, and says what failed
            return method, Response(500, TEXT, f"{type(error).__name__}: {error}\n".encode())


def _rendered(method: str, answer: Response) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    ).encode()
    return head if method == "HEAD" else head + answer.body
