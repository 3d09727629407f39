"""The other side of a webhook, over loopback: it takes what it is sent and answers what it is told to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web


class Request(NamedTuple):
    """What came; `path` as it was on the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """`url` is where to post; below it anything can be put. `answers` are given in turn, then 200."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[web.Response] = []
        self.url = ""

    async def start(self, at_end: list[Callable[[], Awaitable[None]]]) -> None:
        """Listen on loopback."""
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", self._take)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/scale"
        at_end.append(runner.cleanup)

    def headers_and_bodies(self) -> list[tuple[dict[str, str], bytes]]:
        """Of each request."""
        return [(one.headers, one.body) for one in self.requests]

    async def _take(self, request: web.Request) -> web.Response:
        self.requests.append(Request(request.method, request.raw_path, dict(request.headers), await request.read()))
        return self.answers.pop(0) if self.answers else web.Response()
