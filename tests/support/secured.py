"""A broker and a Redis of a test's own that let nobody in without a certificate, a user and a password."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from heteroscale.servers import kafka, kafka_jars, probe
from support.processes import free_port

USER = "heteroscale"
PASSWORD = "s3cret"  # noqa: S105 - of servers that live for a test
UP_WITHIN_S = 30.0
CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"
PLAIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


def missing() -> str | None:
    """What is not at hand for it, or null."""
    if kafka.unavailable() is not None:
        return kafka.unavailable()
    return next((f"no {name} on PATH" for name in ("openssl", "redis-server") if shutil.which(name) is None), None)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for loopback that is its own authority, and its key."""

    certificate: Path
    key: Path

    @classmethod
    def made(cls, folder: Path, name: str) -> Self:
        """A new one."""
        made = cls(folder / f"{name}.pem", folder / f"{name}.key")
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        files = ["-keyout", str(made.key), "-out", str(made.certificate)]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *subject], check=True, capture_output=True
        )
        return made


class Secured:
    """Kafka: SASL_SSL (PLAIN and SCRAM) and SSL with client certificates. Redis: TLS with client certificates and a password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = Certificate.made(folder, "server")
        self.stranger = Certificate.made(folder, "stranger")
        self.sasl = f"127.0.0.1:{free_port()}"
        self.mutual = f"127.0.0.1:{free_port()}"
        self.redis_port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def redis(self) -> str:
        """Its address."""
        return f"rediss://127.0.0.1:{self.redis_port}/0"

    def __enter__(self) -> Self:
        try:
            self._start_redis()
            self._start_kafka()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End both, as kill -9 does."""
        for process in self._processes:
            process.kill()
            process.wait()

    def environment(self, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """The variables that let a process in, to both."""
        certificate, key = str(self.own.certificate), str(self.own.key)
        return {
            "HETEROSCALE_KAFKA": self.sasl,
            "HETEROSCALE_SECURITY_PROTOCOL": "SASL_SSL",
            "HETEROSCALE_SASL_MECHANISM": mechanism,
            "HETEROSCALE_SASL_USERNAME": USER,
            "HETEROSCALE_SASL_PASSWORD": PASSWORD,
            "HETEROSCALE_TLS_CA": certificate,
            "HETEROSCALE_REDIS": self.redis,
            "HETEROSCALE_REDIS_PASSWORD": PASSWORD,
            "HETEROSCALE_REDIS_TLS_CA": certificate,
            "HETEROSCALE_REDIS_TLS_CERT": certificate,
            "HETEROSCALE_REDIS_TLS_KEY": key,
        }

    def with_certificate(self) -> dict[str, str]:
        """Kafka by a client certificate alone."""
        names = {"HETEROSCALE_KAFKA": self.mutual, "HETEROSCALE_SECURITY_PROTOCOL": "SSL", "HETEROSCALE_TLS_CA": str(self.own.certificate)}
        return names | {"HETEROSCALE_TLS_CERT": str(self.own.certificate), "HETEROSCALE_TLS_KEY": str(self.own.key)}

    def _start_redis(self) -> None:
        files = {"--tls-cert-file": self.own.certificate, "--tls-key-file": self.own.key, "--tls-ca-cert-file": self.own.certificate}
        given = [word for name, path in files.items() for word in (name, str(path))]
        place = ["--port", "0", "--tls-port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        self._spawn("redis", ["redis-server", *place, *given, "--tls-auth-clients", "yes", "--requirepass", PASSWORD])
        self._await_port(self.redis_port)

    def _start_kafka(self) -> None:
        both = self.folder / "both.pem"
        both.write_text(self.own.key.read_text() + self.own.certificate.read_text())
        settings = self.folder / "server.properties"
        settings.write_text(self._properties(both))
        base = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{kafka_jars.ensure(lambda _line: None)}/*"]
        users = [
            word
            for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for word in ("--add-scram", f"{kind}=[name={USER},password={PASSWORD},iterations=4096]")
        ]
        form = [*base, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(settings), *users]
        subprocess.run(form, check=True, capture_output=True)
        self._spawn("kafka", [*base, "-Xmx384m", "kafka.Kafka", str(settings)])
        for address in (self.sasl, self.mutual):
            self._await_port(int(address.rpartition(":")[2]))

    def _properties(self, both: Path) -> str:
        """The production settings of a single node, its listeners replaced."""
        inner, controller = free_port(), free_port()
        listeners = f"INNER://127.0.0.1:{inner},SECURE://{self.sasl},MUTUAL://{self.mutual}"
        scram = {f"listener.name.secure.scram-sha-{size}.sasl.jaas.config": SCRAM for size in (256, 512)}
        changed = scram | {
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": listeners,
            "inter.broker.listener.name": "INNER",
            "listener.security.protocol.map": "INNER:PLAINTEXT,SECURE:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT",
            "listener.name.secure.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.secure.plain.sasl.jaas.config": PLAIN,
            "listener.name.mutual.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(both),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.own.certificate),
        }
        lines = kafka.properties(self.folder / "data", inner, controller).splitlines()
        kept = [line for line in lines if line.partition("=")[0] not in changed]
        return "\n".join([*kept, *(f"{name}={value}" for name, value in changed.items()), ""])

    def _spawn(self, name: str, argv: list[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder))

    def _await_port(self, port: int) -> None:
        until = time.monotonic() + UP_WITHIN_S
        while not probe.connects("127.0.0.1", port):
            assert time.monotonic() < until, [path.read_text()[-1_000:] for path in self.folder.glob("*.log")]
            time.sleep(0.05)
