"""`heteroscale signals`: windows from telemetry files, and the windows of a service as the log has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click

from heteroscale.bus import scan
from heteroscale.bus.log import Record
from heteroscale.cli import completing, files, output, spec_files
from heteroscale.cli.durations import INSTANT
from heteroscale.cli.log_view import LogView
from heteroscale.cli.main import BAD_INPUT
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.cli.signals_chart import Point, draw_png, draw_text
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import Instant, instant_text
from heteroscale.signals import offline

POLL_MS: Final = 1_000
METRICS: Final = ("decode_tps", "prefill_tps", "prefill_missed_tps", "gpu_util", "sm_active", "kv_usage", "running", "waiting", "coverage")
COLUMNS: Final = (
    "end", "role", "serving", "loading", "draining", "silent", "coverage", "decode/s", "prefill/s", "missed/s", "ttft p95", "tbt p95",
)  # fmt: skip


class Wanted(NamedTuple):
    """Which windows of which service."""

    service: str
    last: int
    since_ms: int | None
    until_ms: int | None


@click.group()
def signals() -> None:
    """Signal windows, from telemetry files or as the log has them."""


@signals.command(
    epilog="""\b
Examples:
  heteroscale signals compute telemetry.jsonl --spec chat.yaml --json
  heteroscale topics tail telemetry --json | jq -c .value | heteroscale signals compute -""",
)
@click.argument("telemetry", metavar="TELEMETRY.jsonl", shell_complete=completing.files)
@click.option(
    "--spec",
    "spec_paths",
    multiple=True,
    metavar="SPEC.yaml",
    shell_complete=completing.files,
    help="May repeat; a service without one gets the defaults.",
)
@click.option("--strict", is_flag=True, help="Exit 2 if any line or sample could not be used.")
@json_option
@click.pass_context
def compute(ctx: click.Context, telemetry: str, *, spec_paths: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Telemetry.v1 values, one a line, to SignalWindows, with the very core that the service runs.

    A line, or a sample of it, that cannot be used is one line on stderr (FILE:LINE, code). Windows that the ticks have not
    closed are not printed.
    """
    specs = spec_files.read_specs(spec_paths)
    places: list[str] = []
    refused = 0
    rows: list[tuple[object, ...]] = []
    for event in offline.compute(_payloads(telemetry, places), specs):
        if isinstance(event, offline.Refusal):
            refused += 1
            output.problem(Rejected(event.code, event.message, places[event.line]))
        elif as_json:
            output.emit(event)
        else:
            rows += _rows(event, with_service=True)
    if not as_json:
        output.table(("service", *COLUMNS), rows)
    if refused and strict:
        ctx.exit(BAD_INPUT)


def _payloads(path: str, places: list[str]) -> Iterator[bytes]:
    """The lines of a file; where each one stood is put down in `places`."""
    for line in files.read_lines(path):
        places.append(line.place)
        yield line.payload


@signals.command(
    epilog="""\b
Examples:
  heteroscale signals tail chat-70b
  heteroscale signals tail chat-70b --follow
  heteroscale signals tail chat-70b -n 100 --json""",
)
@click.argument("service")
@click.option("-n", "--last", type=click.IntRange(min=0), default=10, show_default=True, help="How many windows to begin with.")
@click.option("--since", type=INSTANT, metavar="INSTANT", help="Begin at this time instead.")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until interrupted.")
@json_option
@connection_options
def tail(service: str, *, last: int, since: Instant | None, following: bool, as_json: bool) -> None:
    """The newest windows of a service, a row a role."""
    wanted = Wanted(service, last, None if since is None else since.ms, None)
    run_async(_tail(wanted, following=following, as_json=as_json))


async def _tail(wanted: Wanted, *, following: bool, as_json: bool) -> None:
    async with connection_of().log() as log:
        view = LogView(log, connection_of().prefix)
        at = await view.home(Topic.SIGNALS, wanted.service)
        end = (await log.end_offsets([at]))[at]
        windows = await _windows(view, wanted)
        _show(windows, as_json=as_json)
        if not windows and wanted.last:
            when = "" if wanted.since_ms is None else " in that time"
            output.note(f"no window of {wanted.service}{when}; see heteroscale topics describe")
        if not following:
            return
        reader = log.reader({at: end})
        try:
            while True:
                _show(_of_service(await reader.poll(timeout_ms=POLL_MS), wanted.service), as_json=as_json)
        finally:
            await reader.close()


def _show(windows: list[SignalWindow], *, as_json: bool) -> None:
    if as_json:
        for window in windows:
            output.emit(window)
    elif windows:
        output.table(COLUMNS, [row for window in windows for row in _rows(window, with_service=False)])


@signals.command(
    epilog="""\b
Examples:
  heteroscale signals plot chat-70b --metric decode_tps
  heteroscale signals plot chat-70b --metric kv_usage --role decode --since 2026-11-22T17:20Z --png chat.png""",
)
@click.argument("service")
@click.option("--metric", type=click.Choice(METRICS), default="decode_tps", show_default=True)
@click.option("--role", help="Only this role [default: all].")
@click.option("--since", type=INSTANT, metavar="INSTANT", help="Begin here [default: the oldest window].")
@click.option("--until", type=INSTANT, metavar="INSTANT", help="End here [default: the newest window].")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a PNG (needs the `plot` extra).")
@connection_options
def plot(service: str, *, metric: str, role: str | None, since: Instant | None, until: Instant | None, png: Path | None) -> None:
    """A service's signal over time: a chart in the terminal, or a PNG."""
    wanted = Wanted(service, 0, 0 if since is None else since.ms, None if until is None else until.ms)
    windows = run_async(_read(wanted))
    lines: dict[str, list[Point]] = {}
    for window in windows:
        for name, figures in window.roles.items():
            value = getattr(figures, metric)
            if (role is None or role == name) and value is not None:
                lines.setdefault(name, []).append(Point(window.end_ms, value))
    if not lines:
        raise Rejected("no_data", f"no window of {service} in that time has {metric}; see heteroscale signals tail {service}")
    title = f"{service} {metric}"
    if png is None:
        click.echo(draw_text(title, lines))
    else:
        draw_png(title, lines, png)
        output.note(f"wrote {png}")


async def _read(wanted: Wanted) -> list[SignalWindow]:
    async with connection_of().log() as log:
        return await _windows(LogView(log, connection_of().prefix), wanted)


async def _windows(view: LogView, wanted: Wanted) -> list[SignalWindow]:
    """Windows of a service, oldest first, each once."""
    at = await view.home(Topic.SIGNALS, wanted.service)
    begin = (await view.log.begin_offsets([at]))[at]
    if wanted.since_ms:
        found = (await view.log.offsets_for_time({at: wanted.since_ms}))[at]
        begin = (await view.log.end_offsets([at]))[at] if found is None else found
    windows: dict[int, SignalWindow] = {}
    async for batch in scan.to_end(view.log, [at], {at: begin}):
        for window in _of_service(batch, wanted.service):
            windows.setdefault(window.end_ms, window)
    until_ms = wanted.until_ms
    kept = [windows[end] for end in sorted(windows) if until_ms is None or end <= until_ms]
    return kept if wanted.since_ms is not None else kept[len(kept) - min(wanted.last, len(kept)) :]


def _of_service(records: list[Record], service: str) -> list[SignalWindow]:
    key = service.encode()
    return [codec.decode(SignalWindow, record.value) for record in records if record.key == key and record.value is not None]


def _rows(window: SignalWindow, *, with_service: bool) -> list[tuple[object, ...]]:
    head: tuple[object, ...] = (window.service,) if with_service else ()
    if not window.roles:
        return [(*head, instant_text(window.end_ms), *[None] * (len(COLUMNS) - 1))]
    return [(*head, instant_text(window.end_ms), name, *_cells(figures)) for name, figures in window.roles.items()]


def _cells(figures: RoleSignal) -> tuple[object, ...]:
    counts = figures.instances
    return (
        counts.serving,
        counts.loading,
        counts.draining,
        counts.silent,
        figures.coverage,
        _whole(figures.decode_tps),
        _whole(figures.prefill_tps),
        _whole(figures.prefill_missed_tps),
        None if figures.ttft_ms is None else _whole(figures.ttft_ms.p95),
        None if figures.tbt_ms is None else _whole(figures.tbt_ms.p95),
    )


def _whole(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
