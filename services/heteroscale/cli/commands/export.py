"""`heteroscale export`: scrape engines and publish what they say, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from typing import Any

import click

from heteroscale.cli import completing, output
from heteroscale.cli.durations import DURATION
from heteroscale.cli.main import FAILED
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.runtime import lifecycle, settings
from heteroscale.telemetry import engines, export
from heteroscale.telemetry.export_settings import ExportSettings

ENGINES = ("auto", *engines.KINDS, "dynamo", *export.ALIASES)


@click.command(
    epilog="""\b
Examples:
  heteroscale export --service chat-70b --role decode --url http://10.0.0.7:8000/metrics
  heteroscale export --targets engines.yaml --dcgm http://127.0.0.1:9400/metrics --every 1s
  heteroscale export --service chat-70b --role prefill --pods llm/app=chat-prefill:8000
  heteroscale export --url http://127.0.0.1:8000/metrics --once --json""",
)
@click.option("--url", "urls", multiple=True, metavar="URL", help="An engine's metric page; may repeat.")
@click.option(
    "--targets", "file", metavar="FILE", shell_complete=completing.files, help="A YAML file of targets, read again when it changes."
)
@click.option("--dns", metavar="HOST:PORT", help="A name whose every address is an engine (a headless Service).")
@click.option("--pods", metavar="NAMESPACE/LABELS:PORT", help="Kubernetes pods by label (extra `kubernetes`).")
@click.option("--engine", type=click.Choice(ENGINES), metavar="NAME", help=f"Whose pages they are: {', '.join(ENGINES)} [default: auto].")
@click.option("--service", help="The service they belong to [default: default].")
@click.option("--role", help="Their role; a frontend's is always `frontend` [default: decode].")
@click.option("--node", help="The node they run on.")
@click.option("--gpu-type", help="The GPU type they run on.")
@click.option("--gpus", type=click.IntRange(min=1), help="GPUs of each.")
@click.option("--dcgm", metavar="URL", help="The DCGM exporter of their node; {host} stands for the node's address.")
@click.option("--every", type=DURATION, help="How often a page is fetched [default: 1s].")
@click.option("--timeout", type=DURATION, help="Limit of one fetch [default: 800ms].")
@click.option("--source", help="This agent's name in its records [default: exporter].")
@click.option("--once", is_flag=True, help="Fetch each page once, print the records and end; needs no Kafka.")
@json_option
@connection_options
@click.pass_context
def export_command(ctx: click.Context, /, urls: tuple[str, ...], *, once: bool, as_json: bool, **given: Any) -> None:
    """Scrape engines and publish telemetry.

    Counters stay cumulative, names and units are those of the contracts, an engine whose counters stand still while it has work says
    nothing. Each option has a setting (HETEROSCALE_EXPORT_…); the page of the exporter itself is on HETEROSCALE_HTTP_PORT.
    """
    chosen = _settings(urls, given)
    if once:
        ctx.exit(_once(chosen, as_json=as_json))
    process = settings.load(settings.ProcessSettings)
    code = lifecycle.run_process(
        "export", {"export": lambda context: export.serve(context, chosen)}, process=process, bus=connection_of(ctx).bus_settings()
    )
    ctx.exit(code)


def _settings(urls: tuple[str, ...], given: dict[str, Any]) -> ExportSettings:
    """The environment's, with what options say instead. Raises Rejected."""
    values = {f"export_{name}": value for name, value in given.items() if value is not None}
    for name in ("every", "timeout"):
        span = values.pop(f"export_{name}", None)
        if span is not None:
            values[f"export_{name}_ms"] = span.ms
    if urls:
        values["export_urls"] = ",".join(urls)
    chosen = settings.replaced(settings.load(ExportSettings), **values)
    if "export_every_ms" in values and "export_timeout_ms" not in values and chosen.export_timeout_ms > chosen.export_every_ms:
        chosen = settings.replaced(chosen, export_timeout_ms=chosen.export_every_ms)
    return chosen


def _once(chosen: ExportSettings, *, as_json: bool) -> int:
    """Print what each target says now; the exit code."""
    failed = 0
    rows = []
    for target, scraped, record in run_async(export.once(chosen)):
        if record is None:
            output.note(f"{target.url}: {scraped.outcome.value}: {scraped.why}")
            failed += 1
        elif as_json:
            output.emit(record)
        else:
            one = record.samples[0]
            rows.append((one.instance, one.role, one.generation_tokens, one.prompt_tokens, one.running, one.waiting, one.kv_usage))
    if rows:
        output.table(("instance", "role", "generation tokens", "prompt tokens", "running", "waiting", "kv"), rows)
    return FAILED if failed else 0
