"""The page docs/cli.md, from the commands themselves: `python -m heteroscale.cli.reference > docs/cli.md`. A test keeps them equal."""

from __future__ import annotations

from collections.abc import Iterator

import click

from heteroscale.cli.main import cli
from heteroscale.cli.registry import SECTIONS

WIDTH = 100
HEAD = """# Command line

Generated from the commands (`python -m heteroscale.cli.reference > docs/cli.md`); `heteroscale COMMAND --help` says the same.

Exit codes: 0 done, 1 it failed (something is away or broken), 2 bad input (the line on stderr says where and what to write
instead), 130 interrupted. `--json` prints one JSON document a line and nothing else on stdout; notes and errors go to stderr.
`-` as a file is standard input. `--kafka`, `--redis` and `--prefix` may stand before or after the command; without them the
environment (`HETEROSCALE_KAFKA`, `HETEROSCALE_REDIS`, `HETEROSCALE_PREFIX`) counts, then what `heteroscale servers up` started.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    root = click.Context(cli, info_name="heteroscale", **cli.context_settings)
    for title, entries in SECTIONS.items():
        parts.append(f"\n## {title}\n")
        for name in entries:
            command = cli.get_command(root, name)
            if command is not None:
                parts += _blocks(command, name, root, 3)
    return "\n".join(parts)


def _blocks(command: click.Command, name: str, parent: click.Context, depth: int) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)
    yield f"{'#' * depth} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None:
                yield from _blocks(found, below, context, depth + 1)


if __name__ == "__main__":
    click.echo(page(), nl=False)
