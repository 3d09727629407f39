"""Real servers for tests, by the provider chain that people use, once in a run and only when a test asks."""

from __future__ import annotations

import itertools
import os
import time
from typing import Final

from heteroscale.bus.kafka import KafkaLog
from heteroscale.bus.log import Log
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.names import short_hash
from heteroscale.servers import chain
from heteroscale.servers.failure import ServerFailure

REQUEST_TIMEOUT_MS: Final = 10_000
REBALANCE_DEADLINE_MS: Final = 2_000  # tests of slow members wait for it
_numbers = itertools.count(1)
_run = short_hash(f"{os.getpid()}|{time.time_ns()}", 8)


class Servers:
    """What the chain gave, asked for once."""

    def __init__(self) -> None:
        self._given: chain.Servers | None = None
        self._failure: str | None = None

    def given(self) -> chain.Servers | None:
        """The servers; null when the chain failed, see `why`."""
        if self._given is None and self._failure is None:
            try:
                self._given = chain.provide()
            except ServerFailure as error:
                self._failure = " ".join(str(error).split())
        return self._given

    def kafka(self) -> tuple[bool, str]:
        """Whether Kafka is real, and how it was had."""
        given = self.given()
        return (False, self._failure or "") if given is None else (given.kafka is not None, _how(given.how["kafka"], given.kafka))

    def redis(self) -> tuple[bool, str]:
        """Whether Redis is real, and how it was had."""
        given = self.given()
        return (False, self._failure or "") if given is None else (given.redis is not None, _how(given.how["redis"], given.redis))

    def close(self) -> None:
        """Stop what was started for this run."""
        if self._given is not None:
            self._given.close()


def _how(how: str, address: str | None) -> str:
    return how if address is None else f"{how}, {address}"


def unique_prefix() -> str:
    """A topic prefix (also good as a fleet name) that no other test or run uses."""
    return f"test-{_run}-{next(_numbers)}"


def settings(kafka: str | None, prefix: str, *, rebalance_deadline_ms: int = REBALANCE_DEADLINE_MS) -> BusSettings:
    """Bus settings for tests."""
    return BusSettings(kafka=kafka, prefix=prefix, request_timeout_ms=REQUEST_TIMEOUT_MS, rebalance_deadline_ms=rebalance_deadline_ms)


def build_log(kafka: str | None, prefix: str) -> Log:
    """A log of either kind."""
    bus = settings(kafka, prefix)
    return MemoryLog(rebalance_deadline_ms=bus.rebalance_deadline_ms) if kafka is None else KafkaLog(bus)


async def delete_topics(kafka: str, prefix: str) -> None:
    """Delete all topics under a test's prefix."""
    log = KafkaLog(settings(kafka, prefix))
    try:
        await log.delete_topics([name for name in await log.describe_topics() if name.startswith(f"{prefix}.")])
    finally:
        await log.close()
