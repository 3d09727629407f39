"""One signed request to somebody else's endpoint, within its limit; what it answers as our errors.

Heteroscale-Signature: t=1732000000000,v1=<hex>         HMAC-SHA256 of "<t>." and the body, by the shared secret
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

import aiohttp
import msgspec

from heteroscale.actuation.desks import Delayed
from heteroscale.contracts.errors import Retryable
from heteroscale.runtime import retry_after
from heteroscale.runtime.clock import SYSTEM, Clock

REFUSED_PAUSE_S: Final = 60.0  # what the other side calls wrong does not get right by asking often
ANSWER_BYTES_MAX: Final = 1024 * 1024
_LATER: Final = frozenset({408, 425, 429})


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """Where to send. Without a secret nothing is signed."""

    url: str
    secret: str | None = None
    timeout_ms: int = 5_000


class SignedClient:
    """Connections to one recipient."""

    def __init__(self, recipient: Recipient, clock: Clock = SYSTEM) -> None:
        self.recipient = recipient
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """JSON out, the body of a 2xx back. Raises Retryable for what may get better, Delayed where the wait is known."""
        known = {"Content-Type": "application/json", **headers}
        if self.recipient.secret is not None:
            known["Heteroscale-Signature"] = signature(self.recipient.secret, self._clock.now_ms(), body)
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with (
                asyncio.timeout(self.recipient.timeout_ms / 1_000),
                self._session.request(method, url, data=body, headers=known, allow_redirects=False) as response,
            ):
                payload = await response.content.read(ANSWER_BYTES_MAX)
                status, after_s = response.status, retry_after.wait_s(response.headers)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Retryable(f"{url}: {error or type(error).__name__}") from error
        if not 200 <= status < 300:
            raise _refusal(f"{url}: HTTP {status} {payload[:200].decode(errors='replace')}".rstrip(), status, after_s)
        return payload

    async def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            await self._session.close()


def _refusal(what: str, status: int, after_s: float | None) -> Retryable:
    """Soon if it may get better, when it says if it says, seldom if it calls the request wrong."""
    if after_s is not None:
        return Delayed(what, after_s)
    if status >= 500 or status in _LATER:
        return Retryable(what)
    return Delayed(what, REFUSED_PAUSE_S)


def signature(secret: str, at_ms: int, body: bytes) -> str:
    """The header's value. A receiver computes the same and compares in constant time, and refuses an old `t`."""
    digest = hmac.new(secret.encode(), f"{at_ms}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_ms},v1={digest}"


def is_signed(secret: str, header: str, body: bytes, *, now_ms: int, age_max_ms: int = 300_000) -> bool:
    """Whether a request was signed with the secret, not too long ago; for receivers written in Python."""
    fields = dict(part.partition("=")[::2] for part in header.split(","))
    stamp = fields.get("t", "")
    if not stamp.isdecimal() or abs(now_ms - int(stamp)) > age_max_ms:
        return False
    return hmac.compare_digest(signature(secret, int(stamp), body), f"t={stamp},v1={fields.get('v1', '')}")
