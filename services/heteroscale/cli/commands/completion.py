"""`heteroscale completion SHELL`: the script that makes the shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="""\b
Examples:
  heteroscale completion bash >> ~/.bashrc
  heteroscale completion zsh >> ~/.zshrc          # below the line with compinit
  heteroscale completion fish > ~/.config/fish/completions/heteroscale.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print shell completion for bash, zsh or fish."""
    shell_class = get_completion_class(shell)
    if shell_class is None:  # click knows all three
        raise click.UsageError(f"no completion for {shell}")
    click.echo(shell_class(ctx.find_root().command, {}, "heteroscale", "_HETEROSCALE_COMPLETE").source())
