"""`heteroscale benchmark outcome`: what autoscaling saves, against what people use."""

from __future__ import annotations

import os
from pathlib import Path

import click

from heteroscale.cli import output
from heteroscale.cli.options import Finite, json_option
from heteroscale.console import outcome as shown
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.simulator.outcome import cases, compare, study

JOBS_MAX = 8


@click.group()
def benchmark() -> None:
    """Measurements that can be repeated."""


@benchmark.command(
    epilog="""\b
Examples:
  heteroscale benchmark outcome --case azure-2024-code --policy heteroscale --policy hpa-gpu --hours 2 --seeds 1
  heteroscale benchmark outcome --jobs 2 --out outcome/
  heteroscale benchmark outcome --study""",
)
@click.option("--case", "case_names", multiple=True, type=click.Choice(list(cases.CASES)), help="A trace; may repeat. Default: all.")
@click.option("--policy", "policy_names", multiple=True, type=click.Choice(list(compare.SETTINGS)), help="May repeat. Default: all.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 10), help="Runs of the chosen setting.")
@click.option("--startup", "startup_s", default=120.0, show_default=True, type=Finite(min=5.0), help="Start-up of an engine, s.")
@click.option("--hours", type=Finite(min=0.1), help="How much of each trace is played. Default: all of it.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, JOBS_MAX), help="Runs at the same time.")
@click.option("--out", "folder", type=click.Path(file_okay=False, path_type=Path), help="Also write HTML, plots and tables here.")
@click.option("--study", "as_study", is_flag=True, help="The eight signals under the same law instead of the policies.")
@json_option
def outcome(  # noqa: PLR0913, PLR0917 - one parameter an option
    case_names: tuple[str, ...],
    policy_names: tuple[str, ...],
    seeds: int,
    startup_s: float,
    hours: float | None,
    jobs: int,
    folder: Path | None,
    *,
    as_study: bool,
    as_json: bool,
) -> None:
    """Play traces under every policy and compare GPU-hours, utilisation and service level.

    Every policy gets the same number of settings; they are chosen on one trace and scored on another.
    """
    logs.configure(LogFormat.CONSOLE, LogLevel.ERROR)
    plan = compare.Plan(
        cases=case_names or tuple(cases.CASES),
        policies=policy_names or tuple(compare.SETTINGS),
        seeds=seeds,
        startup_s=startup_s,
        hours=hours,
        jobs=min(jobs, os.cpu_count() or 1),
    )
    if as_study:
        found = study.study(plan, output.note)
        if as_json:
            output.emit(found)
        else:
            output.table(study.HEADER, [study.cells(row) for row in found.rows])
        return
    compared = compare.compare(plan, output.note)
    if folder is not None:
        for path in shown.write(compared, folder):
            output.note(f"wrote {path}")
    if as_json:
        output.emit(compared)
        return
    for case in plan.cases:
        click.echo(f"\n{case}: {cases.CASES[case].about}")
        output.table(shown.HEADER, [shown.cells(row) for row in shown.ranked(compared.rows, case)])
