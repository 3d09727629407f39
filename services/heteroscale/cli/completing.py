"""What the shell offers where click does not know: names of files, of topics, of engine profiles. Asks no server."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files, as the shell itself completes them."""
    return [CompletionItem(incomplete, type="file")]


def topics(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Topics by their short names."""
    from heteroscale.contracts.topics import Topic  # noqa: PLC0415 (completion of anything else stays fast)

    names = (topic.value.removesuffix(".v1") for topic in Topic)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
