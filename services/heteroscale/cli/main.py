"""The `heteroscale` command: a root group that imports a command only when it is called, and turns errors into one clear line.

Exit codes: 0 done, 1 it failed (something is away or broken), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import sys
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from heteroscale.cli.options import connection_options
from heteroscale.cli.registry import COMMANDS, SECTIONS
from heteroscale.contracts.errors import HeteroscaleError, Rejected, Retryable

PACKAGE: Final = "heteroscale.cli.commands"
FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130


class Failure(click.ClickException):
    """An error of ours on its way out: `error: …` on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def show(self, file: Any = None) -> None:
        """Print it, on stderr unless told otherwise."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


def failure_of(error: HeteroscaleError) -> Failure:
    """What a person is told about an error, and the exit code that goes with it."""
    if isinstance(error, Rejected):
        return Failure(str(error), BAD_INPUT)
    if isinstance(error, Retryable):
        return Failure(f"{error} (try again, or see what is reachable: heteroscale doctor)", FAILED)
    return Failure(str(error), FAILED)


def failure_of_system(error: OSError) -> Failure:
    """What a person is told when the system refuses: a full disk, a folder that may not be written. Its place, if the error has one."""
    place = error.filename if isinstance(error.filename, str) else "standard output" if error.errno == errno.ENOSPC else None
    return Failure(f"{place}: {error.strerror or error}" if place else str(error.strerror or error), FAILED)


class LazyGroup(click.Group):
    """A group whose commands are imported when called; `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the sections."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; null for an unknown name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(importlib.import_module(f"{PACKAGE}.{module}"), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name for an unknown one."""
        name = args[0]
        if name not in COMMANDS and super().get_command(ctx, name) is None and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; see heteroscale --help"
            ctx.fail(f"no command {name!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands by section."""
        del ctx
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.about) for name, entry in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names from the registry, without importing their modules."""
        del ctx
        return [CompletionItem(name, help=entry.about) for name, entry in COMMANDS.items() if name.startswith(incomplete)]

    def main(self, *args: Any, **extra: Any) -> Any:
        """The whole command line; what the system refuses, even to take the output, is one line too."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            failure_of_system(error).show()
            sys.exit(FAILED)
        except UnicodeEncodeError as error:  # an argument that is not UTF-8 reaches us with its bytes as surrogates
            Failure(f"{error.object[:80]!a} is not UTF-8 text", BAD_INPUT).show()
            sys.exit(BAD_INPUT)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of ours become one line, an interrupt exit code 130."""
        try:
            return super().invoke(ctx)
        except HeteroscaleError as error:
            raise failure_of(error) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  heteroscale validate chat.yaml && heteroscale apply chat.yaml
  heteroscale status
  heteroscale why chat-70b""",
)
@click.version_option(package_name="heteroscale")
@connection_options
def cli() -> None:
    """Coordinated autoscaling for prefill/decode-disaggregated LLM serving."""


def main() -> None:
    """The console script."""
    sys.exit(cli.main(prog_name="heteroscale"))


if __name__ == "__main__":
    main()
