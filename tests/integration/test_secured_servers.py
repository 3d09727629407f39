"""Servers that let nobody in unasked: TLS, client certificates, users and passwords reach every client that we have."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from heteroscale.bus import connect
from heteroscale.bus.log import Entry, Record, TopicLayout, TopicPartition
from heteroscale.runtime.settings import BusSettings, load
from support import secured
from support.processes import COMMAND
from support.secured import PASSWORD, Secured

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.redis,
    pytest.mark.skipif(secured.missing() is not None, reason=f"capability secured servers: {secured.missing()}"),
]


@pytest.fixture(scope="module")
def servers_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Both, for this module."""
    with Secured(tmp_path_factory.mktemp("secured")) as up:
        yield up


def call(environment: Mapping[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with these variables and no others of ours."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("HETEROSCALE_")}
    told = others | dict(environment) | {"HETEROSCALE_CACHE": str(folder), "HETEROSCALE_REQUEST_TIMEOUT_MS": "5000"}
    return subprocess.run([COMMAND, *arguments], env=told, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "certificate"])
async def test_a_log_is_written_and_read_through(servers_of_its_own: Secured, way: str) -> None:
    """Admin, producer, reader and group member each get in, by each mechanism and by a client certificate alone."""
    known = servers_of_its_own.with_certificate() if way == "certificate" else servers_of_its_own.environment(way)
    log = await connect.open_log(load(BusSettings, known))
    try:
        topic = f"t-{way}"
        at = TopicPartition(topic, 0)
        await log.create_topics([TopicLayout(topic, 1, {})])
        await log.append([Entry(topic, b"k", b"v", 1)])
        reader = log.reader({at: 0})
        assert [b"v"] == [record.value for record in await reader.poll(timeout_ms=5_000)]
        await reader.close()
        member = await log.join(f"g-{way}", [topic])
        records: list[Record] = []
        while not records:
            records = await member.poll(timeout_ms=500)
        await member.commit({at: 1})
        assert 1 == await member.committed(at)
        await member.close()
    finally:
        await log.close()


@pytest.mark.chaos
def test_the_whole_loop_runs_on_secured_servers(servers_of_its_own: Secured, tmp_path: Path) -> None:
    """Signals (Faust), decision, placement and actuator as processes; the demo counts what they made. No password is left in a file."""
    environment = servers_of_its_own.environment()
    looked = call(environment, tmp_path, "doctor")
    assert "ok    kafka: answers" in looked.stdout
    assert "ok    redis: " in looked.stdout
    del environment["HETEROSCALE_REDIS_PASSWORD"]
    environment["HETEROSCALE_REDIS"] = f"rediss://:{PASSWORD}@127.0.0.1:{servers_of_its_own.redis_port}/0"
    done = call(environment, tmp_path, "demo", "--hours", "0.1")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "It worked" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"HETEROSCALE_SASL_PASSWORD": "no"}, "Authentication failed"),
        ({"HETEROSCALE_TLS_CA": ""}, "CERTIFICATE_VERIFY_FAILED"),
        ({"HETEROSCALE_SECURITY_PROTOCOL": "PLAINTEXT"}, "connecting to Kafka at"),
    ],
    ids=["password", "authority", "no TLS"],
)
def test_who_is_not_let_in_is_told_why(servers_of_its_own: Secured, tmp_path: Path, wrong: dict[str, str], said: str) -> None:
    """One line with the reason, not that Kafka is away; exit code 1."""
    done = call(servers_of_its_own.environment() | wrong, tmp_path, "get")
    assert 1 == done.returncode
    assert said in done.stderr
    assert 1 == len(done.stderr.splitlines())
    assert PASSWORD not in done.stderr


def test_a_stranger_s_certificate_is_refused_by_both(servers_of_its_own: Secured, tmp_path: Path) -> None:
    """Client certificates of another authority open neither."""
    stranger = servers_of_its_own.stranger
    own = {"HETEROSCALE_TLS_CERT": str(stranger.certificate), "HETEROSCALE_TLS_KEY": str(stranger.key)}
    done = call(servers_of_its_own.with_certificate() | own, tmp_path, "get")
    assert 1 == done.returncode, done.stdout
    redis = {name.replace("TLS", "REDIS_TLS"): value for name, value in own.items()}
    looked = call(servers_of_its_own.environment() | redis, tmp_path, "doctor")
    assert "fail  redis:" in looked.stdout


def test_a_service_with_the_wrong_password_stops_and_says_so(servers_of_its_own: Secured, tmp_path: Path) -> None:
    """Waiting cannot help: it ends with the reason instead of being not ready for ever."""
    done = call(servers_of_its_own.environment() | {"HETEROSCALE_SASL_PASSWORD": "no"}, tmp_path, "run", "decision")
    assert 1 == done.returncode
    assert "Authentication failed" in done.stdout + done.stderr
