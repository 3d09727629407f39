"""docs/replay.md says what the commands print: each is run on the bundle that the page is about."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from heteroscale.cli.main import cli
from heteroscale.replay import archive

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "replay.md"
SKIPPED = "…"  # stands for any number of lines
TIMED = re.compile(r"\(\d+\.\d s\)")


def examples() -> Iterator[tuple[str, list[str]]]:
    """Commands of the page and what it says that they print."""
    command: str | None = None
    told: list[str] = []
    for line in [*PAGE.read_text().splitlines(), "end"]:
        inside = line.startswith("    ") or not line
        if command is not None and (line.startswith("    $ ") or not inside):
            yield command, [text.rstrip() for text in "\n".join(told).strip("\n").splitlines()]
            command = None
        if line.startswith("    $ heteroscale "):
            command, told = line.removeprefix("    $ heteroscale "), []
        elif command is not None:
            told.append(line.removeprefix("    "))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's commands work as they stand."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "inc-142").mkdir()
    archive.unpack(ROOT / "tests" / "replay" / "bundles" / "switch-lost.tar.zst", folder / "inc-142")
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


def agrees(printed: list[str], told: list[str]) -> bool:
    """Whether the lines told are those printed, in order, with whole stretches left out where the page says so."""
    at = 0
    open_end = False
    for line in told:
        if line == SKIPPED:
            open_end = True
            continue
        while at < len(printed) and open_end and printed[at] != line:
            at += 1
        if at >= len(printed) or printed[at] != line:
            return False
        at, open_end = at + 1, False
    return open_end or at == len(printed)


def test_the_page_has_examples() -> None:
    """They are found at all."""
    assert len(list(examples())) >= 7


@pytest.mark.parametrize(("command", "told"), list(examples()), ids=[command for command, _ in examples()])
def test_every_output_on_the_page_is_true(here: Path, monkeypatch: pytest.MonkeyPatch, command: str, told: list[str]) -> None:
    """Line by line, times aside."""
    monkeypatch.chdir(here)
    done = CliRunner().invoke(cli, shlex.split(command))
    printed = [TIMED.sub("(s)", line.rstrip()) for line in done.stdout.rstrip("\n").splitlines()]
    assert agrees(printed, [TIMED.sub("(s)", line) for line in told]), done.stdout
