"""`heteroscale telemetry parse`: engine metric pages, read offline with the mapping that exporters use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from heteroscale.cli import completing, files, output
from heteroscale.cli.commands.telemetry_live import check, tail
from heteroscale.cli.main import BAD_INPUT
from heteroscale.cli.options import json_option
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.telemetry import EngineState, Samples
from heteroscale.telemetry import dcgm, engines, page, sample
from heteroscale.telemetry.page import Page
from heteroscale.telemetry.sample import Identity

AUTO: Final = "auto"
ALIASES: Final = {"dynamo": "dynamo", "tensorrt-llm": "trtllm", "llama.cpp": "llamacpp"}
PROBLEMS_SHOWN: Final = 50


class Wishes(NamedTuple):
    """What the command line says about every page."""

    engine: str
    service: str
    instance: str | None
    role: str
    at_ms: int | None
    state: str
    gpu_type: str | None
    gpus: int | None


@click.group()
def telemetry() -> None:
    """Engine metric pages: read, check and follow them."""


telemetry.add_command(check)
telemetry.add_command(tail)


@telemetry.command(
    epilog="""\b
Examples:
  heteroscale telemetry parse metrics.prom --json
  heteroscale telemetry parse p-*.prom --engine vllm --service chat-70b --role prefill --gpu-type H20 --gpus 8 --json
  heteroscale telemetry parse decode-0.prom --with-gpu dcgm.prom --json""",
)
@click.argument("pages", nargs=-1, required=True, metavar="PAGE...", shell_complete=completing.files)
@click.option(
    "--engine",
    type=click.Choice([AUTO, *engines.KINDS, *ALIASES]),
    default=AUTO,
    show_default=True,
    metavar="NAME",
    help=f"Whose page it is: {', '.join(engines.KINDS)}.",
)
@click.option("--service", default="default", show_default=True, help="The service that the instances belong to.")
@click.option("--instance", help="The instance's name [default: the file's stem].")
@click.option("--role", default="decode", show_default=True, help="Its role; a frontend's page is always `frontend`.")
@click.option("--at-ms", type=click.IntRange(min=0), help="When the page was read, Unix milliseconds [default: the file's time].")
@click.option("--state", type=click.Choice([state.value for state in EngineState]), default="serving", show_default=True)
@click.option("--gpu-type", help="The GPU type it runs on [default: null].")
@click.option("--gpus", type=click.IntRange(min=1), help="How many GPUs it has [default: null].")
@click.option(
    "--with-gpu",
    metavar="DCGM.prom",
    help="Take GPU figures from this page of a DCGM exporter. SM activity is not among its default counters.",
)
@json_option
@click.pass_context
def parse(ctx: click.Context, /, pages: tuple[str, ...], with_gpu: str | None, *, as_json: bool, **wishes: Any) -> None:
    """Turn engine /metrics text into telemetry.v1 `samples` records, one a page.

    A malformed line is skipped and named on stderr (FILE:LINE). A page that cannot be read, or that has no metric of a known
    engine, makes the exit code 2; the other pages are still printed.
    """
    wanted = Wishes(**wishes)
    gpus = None if with_gpu is None else _gpu_page(with_gpu)
    refused = 0
    rows = []
    for path in pages:
        try:
            record = _record(path, wanted, gpus)
        except Rejected as error:
            output.problem(error)
            refused += 1
            continue
        if as_json:
            output.emit(record)
        else:
            rows.append(_row(record))
    if rows:
        output.table(_COLUMNS, rows)
    if refused:
        ctx.exit(BAD_INPUT)


def _record(path: str, wanted: Wishes, gpus: Page | None) -> Samples:
    """The record of one page. Raises Rejected."""
    read = _page(path)
    kind = None if wanted.engine == AUTO else ALIASES.get(wanted.engine, wanted.engine)
    engine = engines.recognise(read, kind)
    if engine is None:
        expected = "a known engine" if kind is None else f"the engine {wanted.engine}"
        raise Rejected("unknown_page", f"no metric of {expected} is on this page", path)
    identity = Identity(
        instance=wanted.instance or Path(path).stem,
        role=wanted.role,
        at_ms=_file_time_ms(path) if wanted.at_ms is None else wanted.at_ms,
        state=EngineState(wanted.state),
        gpu_type=wanted.gpu_type,
        gpus=wanted.gpus,
    )
    found = sample.read(read, engine, identity, None if gpus is None else dcgm.figures(gpus, identity.instance))
    return Samples(service=wanted.service, source=engine.family, layouts=found.layouts, samples=[found.sample])


def _page(path: str) -> Page:
    """A page; lines that were left out are named on stderr. Raises Rejected (`unreadable`)."""
    read = page.parse(files.read_bytes(path))
    for problem in read.problems[:PROBLEMS_SHOWN]:
        output.note(f"{path}:{problem.line}: {problem.text}")
    if len(read.problems) > PROBLEMS_SHOWN:
        output.note(f"{path}: {len(read.problems) - PROBLEMS_SHOWN} more lines were skipped")
    return read


def _gpu_page(path: str) -> Page:
    """A DCGM page. Raises Rejected where it has no GPU."""
    read = _page(path)
    if dcgm.figures(read, "") is None:
        raise Rejected("unknown_page", f"no {dcgm.GPU_UTIL}, {dcgm.ENGINE_ACTIVE} or {dcgm.SM_ACTIVE} is on this page", path)
    return read


def _file_time_ms(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns // 1_000_000
    except OSError as error:
        raise Rejected("no_time", "a page without a file time needs --at-ms", path) from error


_FIGURES: Final[dict[str, Callable[[Samples], object]]] = {
    "instance": lambda record: record.samples[0].instance,
    "engine": lambda record: record.source,
    "role": lambda record: record.samples[0].role,
    "generation tokens": lambda record: record.samples[0].generation_tokens,
    "prompt tokens": lambda record: record.samples[0].prompt_tokens,
    "cached": lambda record: record.samples[0].cached_prompt_tokens,
    "running": lambda record: record.samples[0].running,
    "waiting": lambda record: record.samples[0].waiting,
    "kv": lambda record: record.samples[0].kv_usage,
    "gpu": lambda record: record.samples[0].gpu_util,
}
_COLUMNS: Final = tuple(_FIGURES)


def _row(record: Samples) -> list[object]:
    return [figure(record) for figure in _FIGURES.values()]
