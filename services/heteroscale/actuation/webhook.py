"""The webhook actuator: each new desired state is posted, signed, until the other side has taken it.

    POST URL
    Idempotency-Key: chat-70b/3.1842                        the same for every attempt, also after a restart
    Heteroscale-Signature: t=1732000000000,v1=<hex>         HMAC-SHA256 of "<t>." and the body, by the shared secret
    {"service": …, "version": …, "replicas": …, "instances": [...]}

The answer may be empty, or JSON: {"actuations": [{"instance", "kind", "detail"?}], "again_s": 5}. Actuations are sent on as
acknowledgements; `again_s` asks to be posted the same again, which is how the other side tells of readiness later on.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec

from heteroscale.actuation import desired
from heteroscale.actuation.desks import Delayed
from heteroscale.actuation.file import Answer
from heteroscale.actuation.subscriber import Acknowledger, Assignment
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.placements import Placement
from heteroscale.runtime import logs
from heteroscale.runtime.clock import SYSTEM, Clock

REFUSED_PAUSE_S: Final = 60.0  # what the other side calls wrong does not get right by asking often
RETRY_AFTER_MAX_S: Final = 300.0
AGAIN_MIN_S: Final = 0.5
ANSWER_BYTES_MAX: Final = 1024 * 1024
_LATER: Final = frozenset({408, 425, 429})


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where to post. Without a secret nothing is signed."""

    url: str
    secret: str | None = None
    timeout_ms: int = 5_000


class WebhookAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the other side may say."""

    actuations: list[Answer] = []
    again_s: float | None = None


class WebhookActuator:
    """Posts desired state, sends on what comes back."""

    def __init__(self, acknowledge: Acknowledger, endpoint: Endpoint, clock: Clock = SYSTEM) -> None:
        self._acknowledge = acknowledge
        self._endpoint = endpoint
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._taken: dict[str, str] = {}
        self._logger = logs.logger(actuator="webhook", url=endpoint.url)

    async def place(self, assignment: Assignment[Placement]) -> float | None:
        """Post an assignment; acknowledge what the answer tells. Raises Retryable."""
        answer = await self._post(desired.of_placement(assignment.value))
        for one in answer.actuations:
            await self._acknowledge.send(assignment.value, one.instance, one.kind, one.detail)
        return None if answer.again_s is None else max(AGAIN_MIN_S, answer.again_s)

    async def scale(self, assignment: Assignment[Command]) -> float | None:
        """Post counts, once a revision: an affirmation says nothing new. Raises Retryable."""
        wanted = desired.of_command(assignment.value)
        if self._taken.get(wanted.service) == wanted.version:
            return None
        await self._post(wanted)
        self._taken[wanted.service] = wanted.version
        return None

    async def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, wanted: desired.Desired) -> WebhookAnswer:
        body = codec.encode(wanted)
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{quote(wanted.service, safe='')}/{wanted.version}"}
        if self._endpoint.secret is not None:
            headers["Heteroscale-Signature"] = signature(self._endpoint.secret, self._clock.now_ms(), body)
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with (
                asyncio.timeout(self._endpoint.timeout_ms / 1_000),
                self._session.post(self._endpoint.url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                payload = await response.content.read(ANSWER_BYTES_MAX)
                status, after = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Retryable(f"{self._endpoint.url}: {error or type(error).__name__}") from error
        return self._judged(wanted, status, after, payload)

    def _judged(self, wanted: desired.Desired, status: int, after: str, payload: bytes) -> WebhookAnswer:
        """The answer of a 2xx. Raises Retryable for what may get better."""
        if 200 <= status < 300:
            try:
                return codec.decode(WebhookAnswer, payload) if payload.strip() else WebhookAnswer()
            except Rejected as error:
                self._logger.warning("answer_not_understood", service=wanted.service, error=str(error))
                return WebhookAnswer()
        what = f"{self._endpoint.url}: HTTP {status}"
        if after.isdecimal():
            raise Delayed(what, min(RETRY_AFTER_MAX_S, float(after)))
        if status >= 500 or status in _LATER:
            raise Retryable(what)
        self._logger.error(
            "refused", service=wanted.service, version=wanted.version, status=status, answer=payload[:200].decode(errors="replace")
        )
        raise Delayed(what, REFUSED_PAUSE_S)


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
