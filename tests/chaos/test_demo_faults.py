"""The demo on real servers while machines die under it: it says that it worked, and `heteroscale inventory check` agrees."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import brokers

pytestmark = [pytest.mark.chaos, pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(400)]

COMMAND = str(Path(sys.executable).parent / "heteroscale")
FAULTS = ("node:srv1101@5m+15m", "s1:leaf-2-1@10m+10m", "node:srv1102@25m+10m")


@pytest.fixture
def told(tmp_path: Path, kafka: str, redis_url: str) -> Iterator[dict[str, str]]:
    """The environment of a demo of its own; its topics are deleted afterwards."""
    yield {**os.environ, "HETEROSCALE_KAFKA": kafka, "HETEROSCALE_REDIS": redis_url, "HETEROSCALE_CACHE": str(tmp_path)}
    for record in (tmp_path / "demo").glob("heteroscale-demo-*.json"):
        asyncio.run(brokers.delete_topics(kafka, record.stem))


def test_the_books_are_right_after_a_bad_hour(told: dict[str, str], tmp_path: Path) -> None:
    """NO-LEAK, NO-OVERLAP, ONCE: two nodes and a whole rack go, and come back."""
    faults = [word for fault in FAULTS for word in ("--fault", fault)]
    done = subprocess.run([COMMAND, "demo", "--hours", "1", *faults], env=told, capture_output=True, text=True, timeout=300, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    (record,) = (tmp_path / "demo").glob("heteroscale-demo-*.json")
    look = [COMMAND, "inventory", "check", "--prefix", record.stem]
    checked = subprocess.run(look, env=told, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == checked.returncode, checked.stdout + checked.stderr
    assert ": ok (NO-LEAK" in checked.stdout
