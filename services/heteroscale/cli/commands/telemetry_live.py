"""`heteroscale telemetry check` and `tail`: a running engine's page judged, and the samples that arrive, as they arrive."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import click

from heteroscale.bus import scan
from heteroscale.bus.log import Record
from heteroscale.cli import completing, files, output
from heteroscale.cli.log_view import LogView, decoded
from heteroscale.cli.main import BAD_INPUT, FAILED
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.telemetry import InstanceSample, Samples
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import instant_text
from heteroscale.runtime import clock
from heteroscale.telemetry import advice, dcgm, engines, export_fetch, page, sample
from heteroscale.telemetry.advice import Finding
from heteroscale.telemetry.export_fetch import Outcome
from heteroscale.telemetry.sample import Identity

FETCH_LIMIT_S: Final = 5.0
PAGE_BYTES_MAX: Final = 64 * 1024 * 1024
POLL_MS: Final = 1_000


@click.command(
    epilog="""\b
Examples:
  heteroscale telemetry check http://10.0.0.7:8000/metrics
  heteroscale telemetry check http://10.0.0.7:8000/metrics --dcgm http://10.0.0.7:9400/metrics
  heteroscale telemetry check metrics.prom --json""",
)
@click.argument("pages", nargs=-1, required=True, metavar="URL|FILE...", shell_complete=completing.files)
@click.option("--engine", metavar="NAME", help="Whose page it is [default: told by its metrics].")
@click.option("--dcgm", "gpu_page", metavar="URL|FILE", help="A DCGM exporter's page of its node.")
@json_option
@click.pass_context
def check(ctx: click.Context, pages: tuple[str, ...], *, engine: str | None, gpu_page: str | None, as_json: bool) -> None:
    """Say whether what an engine exposes is enough, which signal is missing, and what turns it on.

    Exit code 0 if the default signal can be made from each page, 1 if not, 2 for a page that cannot be had or is of no known engine.
    """
    gpus = None if gpu_page is None else page.parse(run_async(_bytes(gpu_page)))
    code = 0
    for place in pages:
        try:
            kind, family, found = _findings(place, engine, gpus)
        except Rejected as error:
            output.problem(error)
            code = BAD_INPUT
            continue
        enough = advice.is_enough(found)
        if not enough and code == 0:
            code = FAILED
        if as_json:
            document = [one._asdict() | {"need": one.need.value} for one in found]
            output.emit({"page": place, "engine": kind, "family": family, "enough": enough, "figures": document})
            continue
        verdict = "enough for the default signal" if enough else "NOT enough: decode tokens cannot be counted"
        click.echo(f"{place}: {family}: {verdict}")
        rows = [("yes" if one.present else "no", one.figure, one.need.value, one.carries, one.cure) for one in found]
        output.table(("there", "figure", "need", "carries", "how to get it"), rows)
    ctx.exit(code)


def _findings(place: str, engine: str | None, gpus: page.Page | None) -> tuple[str, str, list[Finding]]:
    """Kind and family of the engine, and what its page has. Raises Rejected."""
    parsed = page.parse(run_async(_bytes(place)))
    known = engines.recognise(parsed, engine)
    if known is None:
        what = "no metric of " + ("a known engine" if engine is None else f"the engine {engine}")
        cure = "vLLM needs no flag, SGLang --enable-metrics, llama.cpp --metrics, TensorRT-LLM serves /prometheus/metrics"
        raise Rejected("unknown_page", f"{what} is on this page; {cure}", place)
    figures = None if gpus is None else dcgm.figures(gpus, "")
    read = sample.read(parsed, known, Identity(instance="checked", role="decode", at_ms=clock.now_ms()), figures)
    return known.kind, known.family, advice.findings(read.sample, known.kind)


async def _bytes(place: str) -> bytes:
    """A page by address or from a file. Raises Rejected."""
    if "://" not in place:
        return files.read_bytes(str(Path(place)))
    async with export_fetch.session(1) as client:
        fetched = await export_fetch.fetch(client, place, limit_s=FETCH_LIMIT_S, bytes_max=PAGE_BYTES_MAX)
    if fetched.outcome is not Outcome.OK:
        raise Rejected(fetched.outcome.value, fetched.why, place)
    return fetched.body


@click.command(
    epilog="""\b
Examples:
  heteroscale telemetry tail --service chat-70b --follow
  heteroscale telemetry tail --instance decode-0 -n 3 --json""",
)
@click.option("--service", help="Only this service.")
@click.option("--instance", help="Only this instance.")
@click.option("-n", "--last", type=click.IntRange(min=0), default=10, show_default=True, help="How many samples to begin with.")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until interrupted.")
@json_option
@connection_options
def tail(*, service: str | None, instance: str | None, last: int, following: bool, as_json: bool) -> None:
    """Samples as they arrive, one line each; rates are between an instance's samples seen here."""
    shown = Shown(service, instance, as_json=as_json)
    run_async(_tail(shown, last, following=following))


class Shown:
    """Which samples are printed, how, and the last of each instance to make rates of."""

    def __init__(self, service: str | None, instance: str | None, *, as_json: bool) -> None:
        self.service = service
        self._instance = instance
        self._as_json = as_json
        self._before: dict[tuple[str, str], InstanceSample] = {}

    def samples(self, record: Record) -> list[tuple[str, InstanceSample]]:
        """The wanted samples of a record; none of a tick."""
        found = None if record.key is None else decoded(Samples, record)
        if found is None or (self.service is not None and found.service != self.service):
            return []
        return [(found.service, one) for one in found.samples if self._instance is None or one.instance == self._instance]

    def show(self, service: str, one: InstanceSample) -> None:
        """One line."""
        before = self._before.get((service, one.instance))
        self._before[service, one.instance] = one
        if self._as_json:
            output.emit({"service": service, "sample": codec.to_document(one)})
            return
        tokens = _rate(before, one, "generation_tokens"), _rate(before, one, "prompt_tokens")
        load = f"running {_text(one.running)} waiting {_text(one.waiting)} kv {_text(one.kv_usage)} gpu {_text(one.gpu_util)}"
        rates = f"decode/s {_text(tokens[0])} prefill/s {_text(tokens[1])}"
        click.echo(f"{instant_text(one.at_ms)}  {service}  {one.instance} ({one.role})  {one.state.value}  {rates}  {load}")


async def _tail(shown: Shown, last: int, *, following: bool) -> None:
    """What is there, then what comes."""
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        places = await view.partitions(Topic.TELEMETRY) if shown.service is None else [await view.home(Topic.TELEMETRY, shown.service)]
        ends = await log.end_offsets(places)
        held = [found async for batch in scan.to_end(log, places) for record in batch for found in shown.samples(record)]
        held.sort(key=lambda found: (found[1].at_ms, found[0], found[1].instance))
        for found in held[len(held) - min(last, len(held)) :]:
            shown.show(*found)
        if not following:
            return
        reader = log.reader(ends)
        try:
            while True:
                for record in await reader.poll(timeout_ms=POLL_MS):
                    for found in shown.samples(record):
                        shown.show(*found)
                await asyncio.sleep(0)
        finally:
            await reader.close()


def _rate(before: InstanceSample | None, now: InstanceSample, counter: str) -> float | None:
    """Tokens a second since the sample before; null where that cannot be told."""
    if before is None or now.at_ms <= before.at_ms or before.started_at_ms != now.started_at_ms:
        return None
    old, new = getattr(before, counter), getattr(now, counter)
    if old is None or new is None or new < old:
        return None
    return float(round((new - old) * 1_000 / (now.at_ms - before.at_ms), 1))


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
