"""What every Kafka client of ours shares: security passed through, errors translated, awaits bounded."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from aiokafka import errors as kafka_errors

from heteroscale.bus import kafka_client
from heteroscale.bus.settings import BusSettings, SaslMechanism, SecurityProtocol
from heteroscale.contracts.errors import Broken, HeteroscaleError, Rejected, Retryable, Stale


def test_security_settings_reach_the_client() -> None:
    """Several addresses, TLS with the system's CAs, SASL with user and password."""
    settings = BusSettings(
        kafka="a:1,b:2",
        security_protocol=SecurityProtocol.SASL_SSL,
        sasl_mechanism=SaslMechanism.SCRAM_SHA_512,
        sasl_username="u",
        sasl_password="p",  # noqa: S106 - not a password
        request_timeout_ms=1_234,
    )
    arguments = kafka_client.connection(settings)
    assert ["a:1", "b:2"] == arguments["bootstrap_servers"]
    assert "SASL_SSL" == arguments["security_protocol"]
    assert ("SCRAM-SHA-512", "u", "p") == tuple(
        arguments[name] for name in ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
    )
    assert 1_234 == arguments["request_timeout_ms"]
    context = arguments["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)


def test_plaintext_needs_nothing_and_no_address_is_broken() -> None:
    """No TLS context without TLS; a log without an address is the one in memory, and asking Kafka for it is a mistake."""
    assert "ssl_context" not in kafka_client.connection(BusSettings(kafka="a:1"))
    with pytest.raises(Broken, match="HETEROSCALE_KAFKA"):
        kafka_client.connection(BusSettings())


def test_an_unreadable_certificate_is_refused_by_name() -> None:
    """The message names the variables to check."""
    settings = BusSettings(kafka="a:1", security_protocol=SecurityProtocol.SSL, tls_ca="/nowhere/ca.pem")
    with pytest.raises(Rejected, match="HETEROSCALE_TLS_CA"):
        kafka_client.connection(settings)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (kafka_errors.KafkaConnectionError(), Retryable),
        (kafka_errors.RequestTimedOutError(), Retryable),
        (kafka_errors.OutOfOrderSequenceNumber(), Retryable),
        (kafka_errors.NotEnoughReplicasError(), Retryable),
        (kafka_errors.CommitFailedError(), Stale),
        (kafka_errors.IllegalGenerationError(), Stale),
        (kafka_errors.MessageSizeTooLargeError(), Rejected),
        (kafka_errors.InvalidTimestampError(), Rejected),
        (kafka_errors.InvalidReplicationFactorError(), Rejected),
        (kafka_errors.TopicAuthorizationFailedError(), Broken),
        (kafka_errors.AuthenticationFailedError(), Broken),
        (OSError("no route"), Retryable),
    ],
)
def test_every_error_of_the_library_becomes_one_of_ours(error: Exception, kind: type[HeteroscaleError]) -> None:
    """By what can be done about it; the text says what was being done."""
    translated = kafka_client.translated(error, "committing")
    assert kind is type(translated)
    assert str(translated).startswith("committing: ")


async def test_an_await_ends_at_its_limit() -> None:
    """No answer is Retryable; the library's error is chained to ours."""
    with pytest.raises(Retryable, match="no answer within 20 ms"):
        await kafka_client.bounded(asyncio.sleep(60), 20, "sleeping")

    async def fails() -> None:
        raise kafka_errors.CommitFailedError

    with pytest.raises(Stale) as stale:
        await kafka_client.bounded(fails(), 1_000, "committing")
    assert isinstance(stale.value.__cause__, kafka_errors.CommitFailedError)
