"""Every command that reads a file, with every kind of file that is none of its own: one clear answer, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from heteroscale.cli.main import cli

ROOT = Path(__file__).resolve().parents[3]
SPEC, FLEET, REQUESTS = (str(ROOT / "examples" / name) for name in ("chat.yaml", "fleet.yaml", "requests.yaml"))
GOOD = (ROOT / "examples" / "chat.yaml").read_bytes()

CONTENTS = {
    "empty": b"",
    "latin-1": b"service: caf\xe9\n",
    "binary": bytes(range(256)) * 8,
    "utf-16": GOOD.decode().encode("utf-16"),
    "nul": b"service: \x00\n",
    "null": b"null\n",
    "number": b"1e400\n",
    "list": b"[1, 2, 3]\n",
    "text": b'"abc"\n',
    "truths": b"service: yes\nfleet: 1\nnodes: true\nrequests: 7\nroles: {prefill: 1}\n",
    "NaN": b"service: a\nroles: .nan\nratio: {prefill: .inf}\nnodes: [{node: a, gpus: .nan}]\n",
    "negative": b'{"service":"a","start_ms":-5,"end_ms":-1,"roles":{},"late_samples":-1}\n',
    "huge": b'{"service":"a","start_ms":' + b"9" * 400 + b',"end_ms":1e999}\n',
    "surrogate": b'{"kind":"samples","service":"\\ud800","source":"x","layouts":{},"samples":[]}\n',
    "cycle": b"&a [*a]\n",
    "deep": b"[" * 1_500,
    "header": b"at_s,prompt_tokens,output_tokens\nNaN,-1,1e400\n",
}
READERS = (
    ["validate", "{}"],
    ["explain-spec", "{}"],
    ["apply", "{}", "--kafka", "127.0.0.1:1"],
    ["signals", "compute", "{}", "--json"],
    ["signals", "compute", "/dev/null", "--spec", "{}"],
    ["decide", "{}", "/dev/null", "--json"],
    ["decide", SPEC, "{}", "--json"],
    ["plan", "{}", REQUESTS, "--json"],
    ["plan", FLEET, "{}", "--json"],
    ["telemetry", "parse", "{}", "--json"],
    ["telemetry", "check", "{}"],
    ["fleet", "import", "{}", "--kafka", "127.0.0.1:1"],
    ["fleet", "import", "{}", "--format", "slurm", "--kafka", "127.0.0.1:1"],
    ["incident", "show", "{}"],
    ["replay", "{}"],
    ["explain", "{}"],
    ["simulate", "--spec", "{}", "--trace", "{trace}", "--fleet", FLEET],
    ["simulate", "--spec", SPEC, "--trace", "{}", "--fleet", FLEET],
    ["simulate", "--spec", SPEC, "--trace", "{trace}", "--fleet", "{}"],
)
ENOUGH = {("signals", "empty"), ("decide", "empty")}  # no telemetry and no windows are nothing to do


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, a directory, and a name that nothing has."""
    made = tmp_path_factory.mktemp("bad")
    for name, content in CONTENTS.items():
        (made / name).write_bytes(content)
    (made / "directory").mkdir()
    (made / "trace.csv").write_text("at_s,prompt_tokens,output_tokens\n0,100,10\n")
    return made


@pytest.mark.parametrize("arguments", READERS, ids=lambda words: " ".join(Path(word).name for word in words))
def test_a_file_of_another_kind_is_bad_input(folder: Path, arguments: list[str]) -> None:
    """Exit code 2 (or 1 where what is sound goes on to a log that is away), something on stderr, nothing raised."""
    wrong = []
    for name in (*CONTENTS, "directory", "missing"):
        places = {"{}": folder / name, "{trace}": folder / "trace.csv"}
        given = [str(places.get(word, word)) for word in arguments]
        done = CliRunner().invoke(cli, given)
        sound = done.exception is None or isinstance(done.exception, SystemExit)
        said = done.exit_code in {1, 2, 3} and bool(done.stderr.strip() or done.stdout.strip())
        skipped = done.exit_code == 0 and (bool(done.stderr.strip()) or (arguments[0], name) in ENOUGH)
        if not sound or not (said or skipped):
            wrong.append((name, done.exit_code, repr(done.exception)))
    assert [] == wrong
