"""The life of a spec on a real log, by the commands: applied, changed, paused, rolled back, let go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from heteroscale.cli.main import cli
from support.processes import free_port

pytestmark = pytest.mark.kafka

SPEC = """
service: chat
mode: active
roles:
  prefill: {min: 1, max: 8, gpus: 8, gpu_types: [H20]}
  decode: {min: 2, max: 16, gpus: 8, gpu_types: [H20]}
ratio: {prefill: 1, decode: 2}
signals: [{metric: decode_tps, role: decode, target: TARGET}]
"""


def call(kafka: str, prefix: str, *arguments: str, code: int = 0) -> list[Any]:
    """Run a command with `--json`: its documents."""
    done = CliRunner().invoke(cli, ["--kafka", kafka, "--prefix", prefix, *arguments, "--json"])
    assert code == done.exit_code, done.stderr
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def test_an_older_revision_is_put_in_force_again(kafka: str, prefix: str, tmp_path: Path) -> None:
    """It is a new revision with the older one's content, out of a pause too; the history keeps all, and a revision not held is refused."""
    call(kafka, prefix, "topics", "create")
    path = tmp_path / "chat.yaml"
    for target in (1_000, 900):
        path.write_text(SPEC.replace("TARGET", str(target)))
        call(kafka, prefix, "apply", str(path))
    call(kafka, prefix, "pause", "chat", "--for", "2h")
    (back,) = call(kafka, prefix, "specs", "rollback", "chat", "--to", "1", "--reason", "slower")
    assert 4 == back["revision"]
    assert {"signals[0].target", "mode"} <= {change["field"] for change in back["changes"]}
    (now,) = call(kafka, prefix, "get", "chat")
    assert (4, 1_000.0, "active", None) == (now["revision"], now["signals"][0]["target"], now["mode"], now["until"])
    revisions = call(kafka, prefix, "specs", "history", "chat")
    assert [1, 2, 3, 4] == [one["revision"] for one in revisions]
    assert sorted(one["applied_at_ms"] for one in revisions) == [one["applied_at_ms"] for one in revisions]
    assert "rollback to 1: slower" == revisions[-1]["reason"]
    call(kafka, prefix, "specs", "rollback", "chat", "--to", "9", code=2)
    call(kafka, prefix, "delete", "chat")
    assert [] == call(kafka, prefix, "get")


def test_a_log_that_is_away_is_said_and_not_waited_for(prefix: str) -> None:
    """Exit code 1, at once."""
    done = CliRunner().invoke(cli, ["--kafka", f"127.0.0.1:{free_port()}", "--prefix", prefix, "specs", "history", "chat"])
    assert 1 == done.exit_code
    assert "Connect call failed" in done.stderr
