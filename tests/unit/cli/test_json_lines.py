"""`--json` prints one JSON document a line and nothing else on stdout, whatever the input and the exit code."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from heteroscale.cli.main import cli
from heteroscale.simulator import policies

ROOT = Path(__file__).resolve().parents[3]
SPEC, FLEET, REQUESTS = (str(ROOT / "examples" / name) for name in ("chat.yaml", "fleet.yaml", "requests.yaml"))
PAGE = str(ROOT / "tests" / "data" / "metrics_pages" / "vllm_0.6_kubeai.prom")
LINES = '{"kind":"samples","service":"chat","source":"a","layouts":{},"samples":[{"instance":"i"}]}\n{"kind":"tick","at_ms":5}\nnot JSON\n'


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, ["validate", SPEC]),
        (2, ["validate", FLEET]),
        (0, ["explain-spec", SPEC]),
        (0, ["signals", "compute", "-"]),
        (2, ["signals", "compute", "-", "--strict"]),
        (2, ["decide", SPEC, "-"]),
        (0, ["plan", FLEET, REQUESTS]),
        (2, ["plan", REQUESTS, FLEET]),
        (0, ["telemetry", "parse", PAGE]),
        (2, ["telemetry", "parse", PAGE, SPEC]),
        (0, ["telemetry", "check", PAGE]),
        (0, ["simulate", "--policy", "list"]),
        (1, ["doctor", "--kafka", "127.0.0.1:1", "--redis", "redis://127.0.0.1:1/0"]),
        (2, ["get", "--kafka", "nowhere"]),
    ],
    ids=lambda value: " ".join(Path(word).name for word in value) if isinstance(value, list) else str(value),
)
def test_nothing_but_json_stands_on_stdout(code: int, arguments: list[str]) -> None:
    """Notes, places and errors are on stderr; before and after other options alike."""
    done = CliRunner().invoke(cli, [*arguments, "--json"], input=LINES)
    assert code == done.exit_code, done.output
    for line in done.stdout.splitlines():
        assert isinstance(orjson.loads(line), dict)


def test_policies_are_listed_as_json_too() -> None:
    """One a line, wherever `--json` stands."""
    for arguments in (["--policy", "list", "--json"], ["--json", "--policy", "list"]):
        done = CliRunner().invoke(cli, ["simulate", *arguments])
        assert list(policies.ABOUT) == [orjson.loads(line)["policy"] for line in done.stdout.splitlines()]
