"""Processes that outlive their starter: known by pid and start, stopped only while they are still the same."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from heteroscale.servers import process
from heteroscale.servers.failure import PortTaken, ServerFailure
from heteroscale.servers.process import ProcessId

SH = shutil.which("sh") or "/bin/sh"


def script(text: str, log: Path) -> ProcessId:
    """Start a shell script."""
    return process.start([SH, "-c", text], log=log)


def test_a_started_process_runs_and_is_stopped(tmp_path: Path) -> None:
    """Stopping says whether there was something to stop; the second time there is not."""
    log = tmp_path / "log"
    started = script("echo hello; exec sleep 30", log)
    assert process.runs(started)
    assert process.wait_until(lambda: log.read_text() == "hello\n", deadline_s=5)
    assert process.stop(started)
    assert not process.runs(started)
    assert not process.stop(started)


def test_a_started_process_keeps_nothing_of_its_starter_open(tmp_path: Path) -> None:
    """The end of a pipe that the starter's shell left open is closed in it: who reads the pipe is not kept waiting."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    started = script("exec sleep 30", tmp_path / "log")
    os.close(writing)
    with os.fdopen(reading) as pipe:
        ready, _, _ = select.select([pipe], [], [], 5.0)
        assert "" == (pipe.read() if ready else None)
    assert process.stop(started)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """After the deadline, not never."""
    log = tmp_path / "log"
    started = script("trap '' TERM; echo deaf; while :; do sleep 0.05; done", log)
    assert process.wait_until(lambda: "deaf" in log.read_text(), deadline_s=5)
    assert process.stop(started, deadline_s=0.2)
    assert not process.runs(started)


def test_somebody_else_with_the_same_pid_is_left_alone() -> None:
    """The kernel gives pids out again: without the start mark the process is not ours."""
    with subprocess.Popen(["sleep", "30"]) as other:
        found = process.identify(other.pid)
        assert found is not None
        stranger = msgspec.structs.replace(found, mark="another start")
        assert not process.runs(stranger)
        assert not process.stop(stranger)
        assert other.poll() is None
        other.kill()


def test_an_ended_child_does_not_run(tmp_path: Path) -> None:
    """A zombie is not a running server."""
    started = script("sleep 0.2", tmp_path / "log")
    assert process.wait_until(lambda: not process.runs(started), deadline_s=5)


def test_it_survives_its_starter(tmp_path: Path) -> None:
    """A session of its own: the end of the starter, and its Ctrl-C, do not reach it."""
    code = (
        "from pathlib import Path; from heteroscale.servers import process\n"
        f"started = process.start([{SH!r}, '-c', 'exec sleep 30'], log=Path({str(tmp_path / 'log')!r}))\n"
        "print(started.pid, started.mark)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    survivor = ProcessId(pid=int(output[0]), mark=output[1])
    assert process.runs(survivor)
    assert process.stop(survivor)


def test_a_server_that_ends_while_starting_shows_its_last_words(tmp_path: Path) -> None:
    """The failure carries the end of the log and does not wait for the deadline."""
    log = tmp_path / "log"
    started = script("for i in 1 2 3 4 5; do echo line $i; done; echo 'FATAL: no disk'; exit 3", log)
    before = time.monotonic()
    with pytest.raises(ServerFailure, match="FATAL: no disk") as caught:
        process.wait_ready("Kafka", started, lambda: False, log=log, deadline_s=30)
    assert time.monotonic() - before < 5
    assert str(log) in caught.value.cure


def test_a_port_lost_while_starting_is_told_apart(tmp_path: Path) -> None:
    """So that another port can be tried."""
    log = tmp_path / "log"
    started = script("echo 'bind: Address already in use'; exit 1", log)
    with pytest.raises(PortTaken):
        process.wait_ready("Kafka", started, lambda: False, log=log, deadline_s=30)


def test_a_mute_server_is_stopped(tmp_path: Path) -> None:
    """It runs and never answers: it is not left behind."""
    started = script("exec sleep 30", tmp_path / "log")
    with pytest.raises(ServerFailure, match="did not answer"):
        process.wait_ready("Kafka", started, lambda: False, log=tmp_path / "log", deadline_s=0.2)
    assert not process.runs(started)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The failure says which."""
    with pytest.raises(ServerFailure, match="/no/such/program"):
        process.start(["/no/such/program"], log=tmp_path / "log")


def test_only_the_end_of_a_long_log_is_shown(tmp_path: Path) -> None:
    """Fifteen lines; bytes that are no text do not matter."""
    log = tmp_path / "log"
    log.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % number for number in range(1_000)))
    shown = process.tail_of(log).splitlines()
    assert (process.TAIL_LINES, "    line 999") == (len(shown), shown[-1])
    assert process.tail_of(tmp_path / "none") == ""


def test_a_command_that_takes_too_long_is_ended() -> None:
    """A download that hangs does not hang the caller."""
    before = time.monotonic()
    with pytest.raises(ServerFailure, match=r"longer than 0\.2 s"):
        process.run(["sleep", "30"], deadline_s=0.2)
    assert time.monotonic() - before < 5
