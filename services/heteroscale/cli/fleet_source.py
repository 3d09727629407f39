"""How a file of nodes is to be read, as options: the same for every command that takes one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from heteroscale.cli import completing, fleet_files
from heteroscale.cli.fleet_files import Source

R = TypeVar("R")
_OPTIONS = (
    click.option("--format", "form", type=click.Choice(fleet_files.FORMATS), default="auto", show_default=True, help="What FILE is."),
    click.option("--fleet", "fleet_name", metavar="NAME", help="The fleet that the nodes belong to [default: the file's, else default]."),
    click.option("--cluster", metavar="NAME", help="The cluster, for formats that do not say it, or say another [default: default]."),
    click.option("--gpu-type", metavar="TYPE", help="The GPU type, for formats that do not say it."),
    click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="GPUs a node, for formats that do not say it."),
    click.option("--label", "labels", multiple=True, metavar="LEVEL=KEY", help="The Kubernetes label for s0, s1, s2, cluster or gpu_type."),
)


def source_options(command: Callable[..., R]) -> Callable[..., R]:
    """FILE and how to read it, given to the command as `path` and `source`."""

    @functools.wraps(command)
    def called(
        *,
        form: str,
        fleet_name: str | None,
        cluster: str | None,
        gpu_type: str | None,
        gpus: int | None,
        labels: tuple[str, ...],
        **rest: Any,
    ) -> R:
        mapped = fleet_files.labels_of(labels)
        source = Source(form=form, fleet=fleet_name, cluster=cluster, gpu_type=gpu_type, gpus=gpus, labels=mapped)
        return command(source=source, **rest)

    wrapped: Callable[..., R] = called
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return click.argument("path", metavar="FILE", shell_complete=completing.files)(wrapped)
