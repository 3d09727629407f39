"""How a process reaches the log. Plain values: who reads the environment is runtime.settings."""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from heteroscale.contracts.topics import DEFAULT_PREFIX

PORT_LAST = 65_535


class SecurityProtocol(enum.StrEnum):
    """Kafka's security.protocol."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(enum.StrEnum):
    """Kafka's sasl.mechanism, as far as a user name and a password go."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class BusSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log's address, security and durability. Without `kafka` the in-memory log is meant."""

    title: ClassVar[str] = "bus"

    kafka: Annotated[
        Annotated[str, Meta(pattern=r"^[^\s,:]+:\d{1,5}(,[^\s,:]+:\d{1,5})*$|^\[[0-9a-fA-F:]+\]:\d{1,5}$")] | None,
        Meta(description="bootstrap servers, host:port[,host:port]", examples=["127.0.0.1:9092"]),
    ] = None
    prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$",
            description="what every topic name starts with; letters, digits, '_', '-' and '.'",
            examples=["heteroscale"],
        ),
    ] = DEFAULT_PREFIX
    security_protocol: Annotated[SecurityProtocol, Meta(description="how to talk to the brokers", examples=["SASL_SSL"])] = (
        SecurityProtocol.PLAINTEXT
    )
    sasl_mechanism: Annotated[SaslMechanism | None, Meta(description="with a SASL_ protocol", examples=["SCRAM-SHA-512"])] = None
    sasl_username: Annotated[str | None, Meta(description="with a SASL_ protocol", examples=["heteroscale"])] = None
    sasl_password: Annotated[str | None, Meta(description="with a SASL_ protocol; never printed", examples=["…"])] = None
    tls_ca: Annotated[str | None, Meta(description="path of the CA bundle, PEM", examples=["/etc/kafka/ca.pem"])] = None
    tls_cert: Annotated[str | None, Meta(description="path of the client certificate, PEM", examples=["/etc/kafka/client.pem"])] = None
    tls_key: Annotated[str | None, Meta(description="path of the client key, PEM", examples=["/etc/kafka/client.key"])] = None
    replication_factor: Annotated[int, Meta(ge=1, le=15, description="copies of each partition of new topics", examples=["3"])] = 1
    min_isr: Annotated[int, Meta(ge=1, le=15, description="copies that must have a record before it counts", examples=["2"])] = 1
    request_timeout_ms: Annotated[  # longer than a leader election, shorter than a person's patience
        int, Meta(ge=500, le=300_000, description="limit of one request to a broker, ms", examples=["10000"])
    ] = 10_000
    session_timeout_ms: Annotated[  # a killed member's partitions move after this; brokers refuse less than 6 s
        int, Meta(ge=6_000, le=300_000, description="silence after which a group member counts as dead, ms", examples=["8000"])
    ] = 8_000
    rebalance_deadline_ms: Annotated[  # a member that drains longer loses its partitions to the others
        int, Meta(ge=1_000, le=300_000, description="limit of draining before partitions are given up, ms", examples=["10000"])
    ] = 10_000
    dead_letters_consecutive: Annotated[  # a producer gone wrong sends a few; a hundred in a row is a reader that misreads
        int, Meta(ge=1, description="refused records in a row after which a stage stops", examples=["100"])
    ] = 100
    dead_letters_percent: Annotated[
        int, Meta(ge=1, le=100, description="share of refused records among the last thousand above which a stage stops", examples=["20"])
    ] = 20
    linger_ms: Annotated[  # 0: a record leaves at once; the loop's latency matters more than batch size
        int, Meta(ge=0, le=1_000, description="how long an append waits for company, ms", examples=["0"])
    ] = 0

    def __post_init__(self) -> None:
        """Checks across fields. Raises ValueError that says what to write."""
        for server in filter(None, (self.kafka or "").split(",")):
            host, _, port = server.rpartition(":")
            if not 0 < int(port) <= PORT_LAST:
                raise ValueError(f"kafka={self.kafka} names a port that cannot be; write one from 1 to {PORT_LAST}, such as 127.0.0.1:9092")
            _require_name(host)
        if self.min_isr > self.replication_factor:
            raise ValueError(
                f"min_isr={self.min_isr} is above replication_factor={self.replication_factor}; no append could succeed; "
                f"write min_isr={max(1, self.replication_factor - 1)}"
            )
        if self.security_protocol.startswith("SASL_"):
            missing = [name for name in ("sasl_mechanism", "sasl_username", "sasl_password") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"security_protocol={self.security_protocol.value} needs {' and '.join(missing)}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together; set both or neither")


def _require_name(host: str) -> None:
    """Raises ValueError for what no resolver can be asked."""
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ValueError(
            f"kafka names the host {host[:40]!a}, which cannot be one; write a name or an address, such as 127.0.0.1"
        ) from error
