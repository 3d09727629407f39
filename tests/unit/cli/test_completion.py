"""What the shell is offered: commands, options, choices, files and topics, without a server and without importing every command."""

from __future__ import annotations

import pytest
from click.shell_completion import BashComplete

from heteroscale.cli.main import cli


def offered(*words: str) -> list[tuple[str, str]]:
    """Kind and text of what is offered for the last word."""
    *before, last = words
    found = BashComplete(cli, {}, "heteroscale", "_HETEROSCALE_COMPLETE").get_completions(before, last)
    return [(item.type, item.value) for item in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["st"], ["status"]),
        (["--kafka", "a:1", "top"], ["topics"]),
        (["specs", ""], ["diff", "history", "rollback"]),
        (["topics", "tail", "dec"], ["decisions", "decision-state"]),
        (["telemetry", "parse", "--state", "d"], ["draining"]),
        (["servers", "up", "--ka"], ["--kafka-port"]),
    ],
    ids=" ".join,
)
def test_names_are_offered(words: list[str], expected: list[str]) -> None:
    """At every depth, after options too."""
    assert [("plain", name) for name in expected] == offered(*words)


@pytest.mark.parametrize(
    "words",
    ["validate", "apply", "explain-spec", "plan", "decide", "signals compute", "telemetry parse", "telemetry check", "fleet import",
     "fleet diff", "replay", "explain", "incident show", "signals compute - --spec", "simulate --fleet"],
)  # fmt: skip
def test_files_are_offered_where_files_are_read(words: str) -> None:
    """By the shell's own completion."""
    assert [("file", "ex")] == offered(*words.split(), "ex")
