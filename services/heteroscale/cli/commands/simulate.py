"""`heteroscale simulate`: a trace through the whole loop on a virtual clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from rich.console import Console

from heteroscale.cli import files, output
from heteroscale.cli.options import Finite, json_option
from heteroscale.cli.spec_files import read_specs
from heteroscale.console import closing_table, live
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.simulator import offline, policies
from heteroscale.simulator.cluster import faults, fleet, world
from heteroscale.simulator.load import traces, traffic

_PATH = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Simulate(click.Command):
    """Knows before its options are worked through whether JSON is wanted: `--policy list` ends before `--json` has its turn."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does."""
        ctx.meta[__name__] = "--json" in args
        return super().parse_args(ctx, args)


def _list_policies(ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if value == "list" and not ctx.resilient_parsing:
        if ctx.meta[__name__]:
            for name, about in policies.ABOUT.items():
                output.emit({"policy": name, "about": about})
        else:
            output.table(("policy", "what it is"), policies.ABOUT.items())
        ctx.exit(0)
    return value


@click.command(
    cls=_Simulate,
    epilog="""\b
Examples:
  heteroscale simulate --spec chat.yaml --trace day.csv --fleet fleet.yaml
  heteroscale simulate --spec chat.yaml --trace day.csv --fleet fleet.yaml --policy hpa-gpu --json
  heteroscale simulate --spec chat.yaml --trace day.csv --fleet fleet.yaml --fault s1:leaf-1-1@6h+30m
  heteroscale simulate --policy list""",
)
@click.option("--policy", default=policies.OURS, metavar="NAME", is_eager=True, callback=_list_policies, help="Who decides, or `list`.")
@click.option("--spec", "specs", multiple=True, required=True, type=_PATH, help="A spec; may repeat.")
@click.option(
    "--trace",
    "traces_given",
    multiple=True,
    required=True,
    metavar="FILE|NAME",
    help="A trace CSV, or the name of one that comes along (azure-2024-code), for each spec, in order, or one for all.",
)
@click.option("--fleet", "fleet_file", required=True, type=_PATH, help="The nodes there are (FLEET.yaml).")
@click.option("--profile", metavar="NAME|FILE", help="Engine curves: a name (h200_llama8b, h20_deepseek_r1) or a YAML file.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Draws arrivals and start-up times.")
@click.option("--scale", default=1.0, show_default=True, type=Finite(min=0, min_open=True, max=1_000_000), help="Load against the trace's.")
@click.option(
    "--fault",
    "fault_texts",
    multiple=True,
    metavar="KIND:NAME@TIME[+DURATION]",
    help="s1, node, instance, silence, garbage or late; may repeat.",
)
@click.option(
    "--through",
    default=offline.Through.AUTO.value,
    show_default=True,
    type=click.Choice([way.value for way in offline.Through]),
    help="The services over a log in memory, or their cores alone: far faster, no telemetry. auto: by size.",
)
@json_option
def simulate(  # noqa: PLR0913, PLR0917 - one parameter an option
    policy: str,
    specs: tuple[Path, ...],
    traces_given: tuple[str, ...],
    fleet_file: Path,
    profile: str | None,
    seed: int,
    scale: float,
    fault_texts: tuple[str, ...],
    through: str,
    *,
    as_json: bool,
) -> None:
    """Play a trace against specs on a fleet, with the production services in this process and nothing else running.

    Engines follow measured curves; time is virtual. With --json a line a service and then the summary.
    """
    logs.configure(LogFormat.CONSOLE, LogLevel.ERROR)
    request = offline.Request(
        specs=read_specs(specs),
        traffic=[_trace(text) for text in traces_given],
        nodes=fleet.parse(files.read_bytes(fleet_file).decode("utf-8", "replace"), str(fleet_file)),
        profile=profile,
        policy=policy,
        seed=seed,
        scale=scale,
        faults=[faults.parse(text) for text in fault_texts],
        through=offline.Through(through),
    )
    for note in world.notes(offline.scene_of(request)):
        output.note(note)
    if request.through is offline.Through.AUTO and offline.way(request) is offline.Through.CORES:
        output.note("large: played through the cores alone (--through services for the services)")
    if as_json:
        _as_json(request)
    else:
        _for_people(request)


def _trace(text: str) -> traffic.Traffic:
    """A file if there is one, else a trace by name."""
    path = Path(text)
    if path.is_file():
        return traffic.parse(files.read_bytes(path).decode("utf-8", "replace"), text)
    return traces.load(text)


def _as_json(request: offline.Request) -> None:
    played = asyncio.run(offline.simulate(request, lambda _view: None))
    for document in offline.service_documents(played.closing):
        output.emit(document)
    output.emit(offline.summary_document(played, request))


def _for_people(request: offline.Request) -> None:
    console = Console()
    screen = live.screen_for(console)
    try:
        played = asyncio.run(offline.simulate(request, screen.show))
    finally:
        screen.close()
    closing_table.show(console, played.closing, played.wall_s)
    for fault in played.closing.faults:
        console.print(f"note: {fault}", markup=False)
