"""The demo on real servers: an hour in which something moves, every service a process; and an interrupt that leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import brokers

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(240)]

COMMAND = str(Path(sys.executable).parent / "heteroscale")


def environment(tmp_path: Path, kafka: str, redis_url: str) -> dict[str, str]:
    """A cache of its own, so that nobody else's demo is tidied up."""
    return {**os.environ, "HETEROSCALE_KAFKA": kafka, "HETEROSCALE_REDIS": redis_url, "HETEROSCALE_CACHE": str(tmp_path)}


@pytest.fixture
def left(tmp_path: Path, kafka: str) -> Iterator[Path]:
    """The demo's cache; what its demos leave on the log is deleted afterwards."""
    yield tmp_path
    for record in (tmp_path / "demo").glob("heteroscale-demo-*.json"):
        asyncio.run(brokers.delete_topics(kafka, record.stem))


def processes_of(prefix: str, cache: Path) -> list[str]:
    """Process ids whose environment names the prefix and the cache of this demo: another demo may use the same number elsewhere."""
    wanted = {f"HETEROSCALE_PREFIX={prefix}".encode(), f"HETEROSCALE_CACHE={cache}".encode()}
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted <= set(path.read_bytes().split(b"\0")):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def prefix_of(tmp_path: Path) -> str | None:
    """The prefix that the demo of this cache uses."""
    left = sorted((tmp_path / "demo").glob("heteroscale-demo-*.json"))
    return left[0].stem if left else None


def test_an_hour_on_real_servers(left: Path, kafka: str, redis_url: str) -> None:
    """Exit 0, the closing says that it worked, what it points to works, and a second demo tidies the first one up."""
    told = environment(left, kafka, redis_url)
    done = subprocess.run([COMMAND, "demo", "--hours", "1"], env=told, capture_output=True, text=True, timeout=180, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "It worked" in done.stdout
    prefix = prefix_of(left)
    assert prefix is not None
    assert [] == processes_of(prefix, left)
    pointed = [line.strip() for line in done.stdout.splitlines() if line.startswith("  heteroscale ")]
    assert 5 == len(pointed)
    for line in pointed:
        shown = subprocess.run([COMMAND, *line.split()[1:]], env=told, capture_output=True, text=True, timeout=60, check=False)
        assert 0 == shown.returncode, line + shown.stderr
        assert shown.stdout
    again = subprocess.run([COMMAND, "demo", "--hours", "0.1"], env=told, capture_output=True, text=True, timeout=180, check=False)
    assert 0 == again.returncode, again.stdout + again.stderr
    assert f"deleted the topics of {prefix}" in again.stderr
    assert prefix_of(left) != prefix


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_running(left: Path, kafka: str, redis_url: str, number: signal.Signals) -> None:
    """In the middle of the day: exit 130, and no service of that demo runs any more."""
    told = environment(left, kafka, redis_url)
    process = subprocess.Popen([COMMAND, "demo"], env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while (prefix := prefix_of(left)) is None or len(processes_of(prefix, left)) < 4:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(number)
        assert 130 == process.wait(timeout=40)
        assert [] == processes_of(prefix, left)
    finally:
        if process.poll() is None:
            process.kill()
        if process.stdout is not None:
            process.stdout.close()
