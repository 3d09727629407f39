"""The webhook actuator: each new desired state is posted, signed, until the other side has taken it.

    POST URL
    Idempotency-Key: chat-70b/3.1842                        the same for every attempt, also after a restart
    Heteroscale-Signature: t=1732000000000,v1=<hex>         see signed_http
    {"service": …, "version": …, "replicas": …, "instances": [...]}

The answer may be empty, or JSON: {"actuations": [{"instance", "kind", "detail"?}], "again_s": 5}. Actuations are sent on as
acknowledgements; `again_s` asks to be posted the same again, which is how the other side tells of readiness later on.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import msgspec

from heteroscale.actuation import desired
from heteroscale.actuation.file import Answer
from heteroscale.actuation.signed_http import Recipient, SignedClient
from heteroscale.actuation.subscriber import Acknowledger, Assignment
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import Placement
from heteroscale.runtime import logs
from heteroscale.runtime.clock import SYSTEM, Clock

AGAIN_MIN_S: Final = 0.5


class WebhookAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the other side may say."""

    actuations: list[Answer] = []
    again_s: float | None = None


class WebhookActuator:
    """Posts desired state, sends on what comes back."""

    def __init__(self, acknowledge: Acknowledger, recipient: Recipient, clock: Clock = SYSTEM) -> None:
        self._acknowledge = acknowledge
        self._client = SignedClient(recipient, clock)
        self._taken: dict[str, str] = {}
        self._logger = logs.logger(actuator="webhook", url=recipient.url)

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
        await self._client.close()

    async def _post(self, wanted: desired.Desired) -> WebhookAnswer:
        """What was answered; an answer that cannot be understood is none. Raises Retryable."""
        key = {"Idempotency-Key": f"{quote(wanted.service, safe='')}/{wanted.version}"}
        payload = await self._client.send("POST", self._client.recipient.url, codec.encode(wanted), key)
        try:
            return codec.decode(WebhookAnswer, payload) if payload.strip() else WebhookAnswer()
        except Rejected as error:
            self._logger.warning("answer_not_understood", service=wanted.service, error=str(error))
            return WebhookAnswer()
