"""The command line as a whole: every command loads, explains itself with an example, and starts fast."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from heteroscale.cli.main import cli, failure_of
from heteroscale.cli.registry import COMMANDS
from heteroscale.contracts.errors import Broken, Rejected, Retryable

HEAVY = ("aiokafka", "faust", "redis", "numpy", "rich", "msgspec")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    """`--help` of a command and of all below it works, and where something is done shows how it is called."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for path, below in commands(command, (name,)):
        result = CliRunner().invoke(cli, [*path, "--help"])
        assert 0 == result.exit_code, result.output
        assert isinstance(below, click.Group) or f"heteroscale {name}" in result.output.partition("Example")[2], path


@pytest.mark.parametrize("name", COMMANDS)
def test_the_registry_says_what_the_command_says(name: str) -> None:
    """The line in `heteroscale --help` is a sentence, and the command has the name it is registered under."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert name == command.name
    assert COMMANDS[name].about.endswith(".")


def test_help_imports_no_command() -> None:
    """`heteroscale --help` loads none of the heavy libraries, so it is there at once."""
    seen = f"print([m for m in {HEAVY} if m in sys.modules])"
    code = f"import sys; from heteroscale.cli.main import cli; cli(['--help'], standalone_mode=False); {seen}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.splitlines()[-1]


def test_an_unknown_command_names_the_nearest() -> None:
    """A misspelt command is a usage error with a hint."""
    result = CliRunner().invoke(cli, ["statsu"])
    assert 2 == result.exit_code
    assert "no command 'statsu'; did you mean status?" in result.stderr


def test_version() -> None:
    """The version is that of the package."""
    assert ", version " in CliRunner().invoke(cli, ["--version"]).output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """Each shell gets a script that calls us."""
    result = CliRunner().invoke(cli, ["completion", shell])
    assert 0 == result.exit_code
    assert f"_HETEROSCALE_COMPLETE={shell}_complete" in result.output


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Rejected("spec", "makes no sense", "a.yaml:1"), 2, "a.yaml:1: makes no sense"),
        (Retryable("Kafka is away"), 1, "Kafka is away (try again, or see what is reachable: heteroscale doctor)"),
        (Broken("an invariant"), 1, "an invariant"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(error: Rejected | Retryable | Broken, code: int, line: str) -> None:
    """Bad input is 2, failure is 1, and the line says what to do."""
    failure = failure_of(error)
    assert code == failure.exit_code
    assert line == failure.format_message()


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command without a traceback, as shells expect."""

    def interrupted(_self: click.Command, _ctx: click.Context) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Command, "invoke", interrupted)
    result = CliRunner().invoke(cli, ["completion", "bash"])
    assert 130 == result.exit_code
    assert "interrupted" in result.stderr


def test_the_package_runs_as_a_module() -> None:
    """`python -m heteroscale` is the command, where no console script is on the path."""
    done = subprocess.run([sys.executable, "-m", "heteroscale", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("heteroscale, version ")
