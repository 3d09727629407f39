"""What the system refuses, and what is no text or no number: one line on stderr, the documented exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from heteroscale.cli.main import cli

COMMAND = str(Path(sys.executable).parent / "heteroscale")
SPEC = str(Path(__file__).resolve().parents[3] / "examples" / "chat.yaml")
DISK_FULL = Path("/dev/full")


@pytest.mark.skipif(not DISK_FULL.exists(), reason="capability /dev/full: this system has none")
@pytest.mark.parametrize("arguments", [["explain-spec", SPEC], ["--help"], ["completion", "zsh"]], ids=["table", "help", "script"])
def test_a_full_disk_is_said(arguments: list[str]) -> None:
    """Output that did not arrive is no success: exit code 1."""
    with DISK_FULL.open("wb") as full:
        done = subprocess.run([COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=30)
    assert (1, "error: standard output: No space left on device\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize("arguments", [["servers", "up"], ["demo", "--hours", "0.1"], ["get"]], ids=["servers", "demo", "get"])
def test_a_cache_that_cannot_be_written_is_said(arguments: list[str]) -> None:
    """With its place."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("HETEROSCALE_")}
    told = others | {"HETEROSCALE_CACHE": "/dev/null/cache"}
    done = subprocess.run([COMMAND, *arguments], env=told, capture_output=True, text=True, check=False, timeout=30)
    assert (1, "error: /dev/null/cache/servers: Not a directory\n") == (done.returncode, done.stderr)


def test_an_argument_that_is_not_text_is_bad_input(tmp_path: Path) -> None:
    """It is shown as it is; nothing is printed as JSON."""
    page = tmp_path / "page.prom"
    page.write_text("vllm:num_requests_running 1\n")
    done = CliRunner().invoke(cli, ["telemetry", "parse", str(page), "--instance", "\udcff", "--json"])
    assert (2, "", "error: '\\udcff' is not UTF-8 text\n") == (done.exit_code, done.stdout, done.stderr)


@pytest.mark.parametrize("given", ["NaN", "inf", "-inf", "1e400"])
@pytest.mark.parametrize("command", [["simulate", "--scale"], ["demo", "--hours"], ["benchmark", "outcome", "--startup"]], ids=" ".join)
def test_what_is_no_finite_number_is_bad_input(command: list[str], given: str) -> None:
    """NaN is within no bounds."""
    done = CliRunner().invoke(cli, [*command, given])
    assert 2 == done.exit_code
    assert "Invalid value" in done.stderr


@pytest.mark.parametrize("address", [f"{'a' * 64}:9092", "\udcff:9092", "127.0.0.1:0"], ids=["long", "bytes", "port"])
def test_a_broker_that_cannot_be_looked_up_is_bad_input(address: str) -> None:
    """It says what to write."""
    done = CliRunner().invoke(cli, ["get", "--kafka", address])
    assert 2 == done.exit_code
    assert "127.0.0.1" in done.stderr


@pytest.mark.parametrize("text", ["[" * 1_500, '{"a":' * 1_500], ids=["lists", "maps"])
@pytest.mark.parametrize("command", ["validate", "signals compute", "simulate"])
def test_nesting_without_end_is_bad_input(tmp_path: Path, command: str, text: str) -> None:
    """In YAML and in JSON; a bad line of telemetry is passed over, with its place."""
    file = tmp_path / "file"
    file.write_text(text + "\n")
    trace = tmp_path / "trace.csv"
    trace.write_text("at_s,prompt_tokens,output_tokens\n0,100,10\n")
    more = ["--spec", SPEC, "--trace", str(trace), "--fleet"] if command == "simulate" else []
    done = CliRunner().invoke(cli, [*command.split(), *more, str(file)])
    assert (0 if command == "signals compute" else 2) == done.exit_code, done.exception
    assert f"{file}" in done.stderr
