"""Fetching one page: bounded in time, from connecting to the last byte, and in size. A hostile server costs that page and no more."""

from __future__ import annotations

import asyncio
import enum
from typing import Final, NamedTuple

import aiohttp

CHUNK_BYTES: Final = 64 * 1024
_HEADERS: Final = {"Accept": "text/plain;version=0.0.4;q=1,*/*;q=0.1", "Accept-Encoding": "identity", "User-Agent": "heteroscale-export"}
_FRAMES: Final = frozenset({"Content-Length", "Transfer-Encoding"})  # without either, a page ends where the connection does


class Outcome(enum.StrEnum):
    """What came of asking for a page; a metric label."""

    OK = "ok"
    STALE = "stale"  # the engine has work, and its counters stand still
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    STATUS = "status"
    TOO_LARGE = "too_large"
    COMPRESSED = "compressed"  # though it was asked not to be
    UNKNOWN = "unknown_page"  # no metric of a known engine
    ERROR = "error"


class Fetched(NamedTuple):
    """A page's bytes, or why there are none, in words."""

    outcome: Outcome
    body: bytes = b""
    why: str = ""


def session(connections_max: int) -> aiohttp.ClientSession:
    """A client that keeps connections, follows no redirect and inflates nothing."""
    connector = aiohttp.TCPConnector(limit=connections_max, limit_per_host=0, ttl_dns_cache=10)
    return aiohttp.ClientSession(connector=connector, headers=_HEADERS, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())


async def fetch(client: aiohttp.ClientSession, url: str, *, limit_s: float, bytes_max: int) -> Fetched:
    """One page. Never raises but for cancellation."""
    try:
        async with asyncio.timeout(limit_s), client.get(url, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=None)) as response:
            if response.status != 200:
                return Fetched(Outcome.STATUS, why=f"HTTP {response.status}")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                return Fetched(Outcome.COMPRESSED, why="the page is compressed though that was not asked for")
            return await _whole(response, bytes_max)
    except TimeoutError:
        return Fetched(Outcome.TIMEOUT, why=f"no whole page within {limit_s * 1_000:.0f} ms")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Fetched(Outcome.UNREACHABLE, why=str(error) or type(error).__name__)


async def _whole(response: aiohttp.ClientResponse, bytes_max: int) -> Fetched:
    """All of a page. Raises aiohttp.ClientError for one that ends before it said it would."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        size += len(chunk)
        if size > bytes_max:
            response.close()
            return Fetched(Outcome.TOO_LARGE, why=f"the page is larger than {bytes_max} bytes")
        parts.append(chunk)
    body = b"".join(parts)
    if not body.endswith(b"\n") and not any(name in response.headers for name in _FRAMES):
        return Fetched(Outcome.UNREACHABLE, why="the connection ended inside a line")  # half a number would look like a reset
    return Fetched(Outcome.OK, body)
