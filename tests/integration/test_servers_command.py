"""`heteroscale servers` with the real broker and the real Redis, as a person uses it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from heteroscale.servers import chain, kafka, kafka_jars, ledger, probe, process, redis

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.redis,
    pytest.mark.skipif(kafka.unavailable() is not None, reason=f"no native Kafka: {kafka.unavailable()}"),
    pytest.mark.skipif(redis.unavailable() is not None, reason=f"no native Redis: {redis.unavailable()}"),
]


@pytest.fixture(scope="module")
def jars() -> Path:
    """The broker's jars in the cache that everything shares."""
    return kafka_jars.ensure(lambda _line: None)


@pytest.fixture
def environment(tmp_path: Path, jars: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, str]]:
    """A cache of its own that borrows the jars; whatever is still up afterwards is stopped."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / f"kafka-{kafka_jars.KAFKA_VERSION}").symlink_to(jars.parent)
    monkeypatch.setenv("HETEROSCALE_CACHE", str(folder))
    for variable in chain.VARIABLE.values():
        monkeypatch.delenv(variable, raising=False)
    yield dict(os.environ)
    for entry in ledger.entries():
        chain.end(entry, delete_data=True)


def start(environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start the command."""
    argv = [sys.executable, "-m", "heteroscale.cli.main", "servers", *arguments]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(environment: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run the command to its end: exit code, stdout, stderr."""
    with start(environment, *arguments) as child:
        stdout, stderr = child.communicate(timeout=90)
    return child.returncode, stdout, stderr


def lines(stdout: str) -> list[Any]:
    """JSON documents, one a line."""
    return [json.loads(line) for line in stdout.splitlines()]


def test_up_status_crash_up_down(environment: Mapping[str, str]) -> None:
    """The whole life: started, found again, crashed and named as such, started again on its data, stopped, gone."""
    ports = ("--kafka-port", str(probe.free_port()), "--redis-port", str(probe.free_port()))
    code, stdout, stderr = call(environment, "up", "--json", *ports)
    (addresses,) = lines(stdout)
    assert (0, {"kafka": "native", "redis": "native"}) == (code, addresses["how"]), stderr
    assert f"127.0.0.1:{ports[1]}" == addresses["kafka"]

    other = probe.free_port()
    code, stdout, stderr = call(environment, "up", "--json", "--kafka-port", str(other), *ports[2:])
    assert (0, {"kafka": "running", "redis": "running"}) == (code, lines(stdout)[0]["how"])
    said = f"kafka is running at 127.0.0.1:{ports[1]}, so --kafka-port {other} is not used; first: heteroscale servers down"
    assert [said] == [line for line in stderr.splitlines() if "-port" in line]

    code, stdout, _ = call(environment, "status", "--json")
    assert (0, {"kafka": "up", "redis": "up"}) == (code, {row["server"]: row["state"] for row in lines(stdout)})

    pids = {row["server"]: row["pid"] for row in lines(stdout)}
    os.kill(pids["redis"], signal.SIGKILL)
    assert process.wait_until(lambda: process.identify(pids["redis"]) is None, deadline_s=5)
    code, stdout, stderr = call(environment, "status")
    assert (1, True) == (code, "redis ended by itself; its last log lines:" in stderr)

    code, stdout, stderr = call(environment, "up")
    assert (0, f"export HETEROSCALE_KAFKA=127.0.0.1:{ports[1]}") == (code, stdout.splitlines()[0])
    assert ["kafka: running", "redis: native"] == [line for line in stderr.splitlines() if line.startswith(("kafka:", "redis:"))]

    code, stdout, _ = call(environment, "down", "--json", "--delete-data")
    assert (0, {"kafka": True, "redis": True}) == (code, {row["server"]: row["stopped"] for row in lines(stdout)})
    assert process.identify(pids["kafka"]) is None
    assert not (ledger.servers_folder() / "kafka").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing_running(environment: Mapping[str, str], sent: signal.Signals) -> None:
    """Ctrl-C while the broker starts."""
    child = start(environment, "up", "--kafka-port", str(probe.free_port()), "--redis-port", str(probe.free_port()))
    assert process.wait_until(lambda: bool(ledger.entries()), deadline_s=30)
    (entry,) = ledger.entries()
    child.send_signal(sent)
    child.communicate(timeout=30)
    assert 130 == child.returncode
    assert not chain.alive(entry)
    assert [] == ledger.entries()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_while_servers_start_leaves_nothing_running(environment: Mapping[str, str], sent: signal.Signals) -> None:
    """By Ctrl-C, by `kill`, by a closed terminal."""
    command = str(Path(sys.executable).parent / "heteroscale")
    child = subprocess.Popen([command, "demo"], env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert process.wait_until(lambda: bool(ledger.entries()), deadline_s=100)  # the first run fetches the broker
        (entry,) = ledger.entries()
        child.send_signal(sent)
        assert 130 == child.wait(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert not chain.alive(entry)
    assert [] == ledger.entries()


def test_logs_of_the_broker_can_be_read(environment: Mapping[str, str]) -> None:
    """Time, level, logger, message, from the binding that belongs to the broker's log4j; no complaint about logging itself."""
    assert environment
    with chain.provide() as found:
        log = Path(found.started[0].log or "")
        last_line = "INFO  KafkaRaftServer [KafkaRaftServer nodeId=1] Kafka Server started"
        assert process.wait_until(lambda: last_line in log.read_text(encoding="utf-8"), deadline_s=10)
        assert "SLF4J" not in log.read_text(encoding="utf-8")


def test_a_taken_port_is_one_clear_message(environment: Mapping[str, str]) -> None:
    """What is taken, and the option to choose another; exit code 1, no traceback."""
    with socket.create_server((probe.LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        code, stdout, stderr = call(environment, "up", "--kafka-port", str(port))
    assert (1, "") == (code, stdout)
    assert f"port {port} is in use" in stderr
    assert "--kafka-port" in stderr
    assert "Traceback" not in stderr


def test_a_demo_without_java_says_so_and_leaves_nothing_running(environment: Mapping[str, str], tmp_path: Path) -> None:
    """No Docker and no Java on PATH: the day is played in one process, and no Redis is started for it."""
    command = str(Path(sys.executable).parent / "heteroscale")
    bare = {name: value for name, value in environment.items() if name != "JAVA_HOME"}
    folder = tmp_path / "path"
    folder.mkdir()
    program = redis.binary()
    if program is not None:
        (folder / "redis-server").symlink_to(program)
    done = subprocess.run(
        [command, "demo", "--hours", "0.2"], env=bare | {"PATH": str(folder)}, capture_output=True, text=True, timeout=90, check=False
    )
    assert 0 == done.returncode, done.stderr
    assert "embedded log: nothing survives this process" in done.stdout
    assert "Redis: none (not needed: there is no Kafka)" in done.stdout
    assert "no Java on PATH" in done.stderr
    assert "starting Redis" not in done.stderr
    assert "It worked" in done.stdout
    assert [] == ledger.entries()
