"""What every Kafka client of ours shares: connection arguments, one limit on every await, and one translation of errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Coroutine
from typing import Any, Final, TypeVar

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn

from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.errors import Broken, HeteroscaleError, Rejected, Retryable, Stale

T = TypeVar("T")

logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # what it would say, the errors raised here say

CLIENT_ID: Final = "heteroscale"
TLS_CURE: Final = "check HETEROSCALE_TLS_CA, HETEROSCALE_TLS_CERT and HETEROSCALE_TLS_KEY"
REASON_LIMIT_S: Final = 3.0
CLOSE_LIMIT_S: Final = 3.0
CUT_ROUNDS: Final = 3  # a client that is being stopped may connect once more to say good-bye
CUT_LIMIT_S: Final = 1.0

_STALE: Final = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.IllegalStateError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.UnknownMemberIdError,
)
_REJECTED: Final[dict[type[Exception], str]] = {
    kafka_errors.MessageSizeTooLargeError: "too_large",
    kafka_errors.RecordListTooLargeError: "too_large",
    kafka_errors.InvalidTimestampError: "timestamp",
    kafka_errors.TopicAlreadyExistsError: "exists",
    kafka_errors.InvalidPartitionsError: "partition_count",
    kafka_errors.InvalidReplicationFactorError: "replication_factor",
    kafka_errors.InvalidConfigurationError: "configuration",
    kafka_errors.PolicyViolationError: "policy",
}
_BROKEN: Final = (
    kafka_errors.AuthenticationFailedError,
    kafka_errors.AuthenticationMethodNotSupported,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.IncompatibleBrokerVersion,
    kafka_errors.InvalidGroupIdError,
    kafka_errors.InvalidTopicError,
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.UnsupportedCodecError,
    kafka_errors.UnsupportedSaslMechanismError,
)


def connection(settings: BusSettings) -> dict[str, Any]:
    """Arguments that all aiokafka clients take. Raises Broken without an address, Rejected for unreadable TLS files."""
    if settings.kafka is None:
        raise Broken("no Kafka address; set HETEROSCALE_KAFKA=host:port")
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.kafka.split(","),
        "client_id": CLIENT_ID,
        "request_timeout_ms": settings.request_timeout_ms,
        "retry_backoff_ms": 100,
        "security_protocol": settings.security_protocol.value,
    }
    if settings.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _tls(settings)
    if settings.sasl_mechanism is not None:
        arguments["sasl_mechanism"] = settings.sasl_mechanism.value
        arguments["sasl_plain_username"] = settings.sasl_username
        arguments["sasl_plain_password"] = settings.sasl_password
    return arguments


def translated(error: Exception, doing: str) -> HeteroscaleError:
    """Our error for one of aiokafka's; the caller raises it `from` the original."""
    text = f"{doing}: {error or type(error).__name__}"
    if isinstance(error, ssl.SSLError):
        text += f"; {TLS_CURE}"
    if isinstance(error, _STALE):
        return Stale(text)
    for kind, code in _REJECTED.items():
        if isinstance(error, kind):
            return Rejected(code, text)
    if isinstance(error, _BROKEN):
        return Broken(text)
    return Retryable(text)


async def bounded(awaitable: Awaitable[T], limit_ms: int, doing: str) -> T:
    """Await within a limit. Raises Retryable on time-out, else the translation of what aiokafka raised."""
    try:
        async with asyncio.timeout(limit_ms / 1_000):
            return await awaitable
    except TimeoutError as error:
        raise Retryable(f"{doing}: no answer within {limit_ms} ms") from error
    except (kafka_errors.KafkaError, OSError) as error:
        raise translated(error, doing) from error


async def connected(start: Awaitable[None], settings: BusSettings) -> None:
    """Await a client's `start()` within the limit. Raises Retryable that says what keeps it, Broken where waiting cannot help."""
    doing = f"connecting to Kafka at {settings.kafka}"
    try:
        await bounded(start, settings.request_timeout_ms, doing)
    except Retryable as error:
        reason = await _reason(settings)
        if reason is None:
            raise
        raise translated(reason, doing) from error


async def _reason(settings: BusSettings) -> Exception | None:
    """Why none of the bootstrap servers lets us in, which a client that starts tells its log alone; null if one does by now."""
    arguments = connection(settings)
    found: Exception | None = None
    for server in arguments.pop("bootstrap_servers"):
        host, _, port = server.rpartition(":")
        try:
            async with asyncio.timeout(REASON_LIMIT_S):
                opened = await create_conn(
                    host.strip("[]"), int(port), **{name: value for name, value in arguments.items() if name != "retry_backoff_ms"}
                )
        except TimeoutError:
            found = found or kafka_errors.KafkaConnectionError("takes connections and does not answer")
        except (kafka_errors.KafkaError, OSError) as error:
            found = error
        else:
            opened.close()
            return None
    return found


async def stopped(stop: Coroutine[Any, Any, Any], client: AIOKafkaClient) -> None:
    """Run `stop()` of a client within limits: what still waits for an answer then loses its connection, and so goes on."""
    ending = asyncio.create_task(stop)
    try:
        await asyncio.wait({ending}, timeout=CLOSE_LIMIT_S)
        for _ in range(CUT_ROUNDS):
            if ending.done():
                break
            await _cut(client)
            await asyncio.wait({ending}, timeout=CUT_LIMIT_S)
    finally:
        ending.cancel()
        await asyncio.wait({ending}, timeout=CUT_LIMIT_S)
        if ending.done() and not ending.cancelled():
            ending.exception()  # seen; what the remains of a client raise while they end is of no use to anybody
        await _cut(client)


async def _cut(client: AIOKafkaClient) -> None:
    with contextlib.suppress(Exception):  # as above
        async with asyncio.timeout(CUT_LIMIT_S):
            await client.close()


def _tls(settings: BusSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_cert is not None:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise Rejected("settings", f"{error}; {TLS_CURE}", "tls") from error
    return context
