"""`heteroscale benchmark`: what autoscaling saves, against what people use; and how near the simulator is to what was measured."""

from __future__ import annotations

import enum
import os
from pathlib import Path

import click
import msgspec

from heteroscale.cli import output
from heteroscale.cli.options import Finite, json_option
from heteroscale.console import outcome as shown
from heteroscale.console import pictures
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.simulator.outcome import calibration as measured
from heteroscale.simulator.outcome import cases, compare, study
from heteroscale.simulator.outcome.bench import Bench, Shelf

JOBS_MAX = 8
STUDY_CASES = ("azure-2024-code",)


class Part(enum.StrEnum):
    """What is played."""

    ALL = "all"
    POLICIES = "policies"
    SIGNALS = "signals"


@click.group()
def benchmark() -> None:
    """Measurements that can be repeated."""


@benchmark.command(
    epilog="""\b
Examples:
  heteroscale benchmark outcome --case azure-2024-code --policy heteroscale --policy hpa-gpu --hours 2 --seeds 1
  heteroscale benchmark outcome --jobs 2 --out outcome/
  heteroscale benchmark outcome --part signals --markdown""",
)
@click.option("--case", "case_names", multiple=True, type=click.Choice(list(cases.CASES)), help="A trace; may repeat. Default: all.")
@click.option("--policy", "policy_names", multiple=True, type=click.Choice(list(compare.SETTINGS)), help="May repeat. Default: all.")
@click.option(
    "--part",
    default=Part.ALL.value,
    show_default=True,
    type=click.Choice([part.value for part in Part]),
    help="The policies, the choice of signal, or all of it.",
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 10), help="Runs of whatever is scored.")
@click.option(
    "--startup",
    "startups_s",
    multiple=True,
    type=Finite(min=5.0),
    help="Start-up of an engine, s; may repeat, the main one first. Default: 120, and 30 and 300 on the Azure traces.",
)
@click.option("--hours", type=Finite(min=0.1), help="How much of each trace is played. Default: all of it.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, JOBS_MAX), help="Runs at the same time.")
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write HTML, plots and tables here, and keep finished runs: the same command goes on where it was interrupted.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the tables in Markdown.")
@json_option
def outcome(  # noqa: PLR0913, PLR0917 - one parameter an option
    case_names: tuple[str, ...],
    policy_names: tuple[str, ...],
    part: str,
    seeds: int,
    startups_s: tuple[float, ...],
    hours: float | None,
    jobs: int,
    folder: Path | None,
    *,
    as_markdown: bool,
    as_json: bool,
) -> None:
    """Play traces under every policy and compare GPU-hours, utilisation and service level.

    Every policy gets the same number of settings; they are chosen on one trace and scored on another. Then the same law on each of
    eight signals. Progress is told on stderr.
    """
    logs.configure(LogFormat.CONSOLE, LogLevel.ERROR)
    plan = compare.Plan(
        cases=case_names or tuple(cases.CASES),
        policies=policy_names or tuple(compare.SETTINGS),
        seeds=seeds,
        startups_s=startups_s or None,
        hours=hours,
    )
    bench = Bench(min(jobs, os.cpu_count() or 1), Shelf(None if folder is None else folder / "runs"), output.note)
    studied = tuple(case for case in plan.cases if case in STUDY_CASES)
    if part == Part.SIGNALS:
        studied = case_names or STUDY_CASES
    elif part == Part.POLICIES or policy_names:
        studied = ()
    found = shown.Findings(
        None if part == Part.SIGNALS else compare.compare(plan, bench),
        study.study(msgspec.structs.replace(plan, cases=studied), bench) if studied else None,
    )
    if folder is not None:
        for path in shown.write(found, folder):
            output.note(f"wrote {path}")
    if as_json:
        output.emit({"outcome": msgspec.to_builtins(found.outcome), "study": msgspec.to_builtins(found.study)})
    elif as_markdown:
        click.echo(shown.markdown(found))
    else:
        for table in found.tables:
            click.echo(f"\n{table.title}: {table.about}")
            output.table(table.header, table.rows)


@benchmark.command(
    epilog="""\b
Examples:
  heteroscale benchmark calibration
  heteroscale benchmark calibration --plot calibration.png --json""",
)
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Also draw measured points over the curves.")
@json_option
def calibration(picture: Path | None, *, as_json: bool) -> None:
    """Hold the simulator's engine curves against what was measured, and its queue formula against a queue played by requests."""
    curves = measured.curves()
    if picture is not None:
        picture.write_bytes(pictures.calibration(curves))
        output.note(f"wrote {picture}")
    if as_json:
        for curve in curves:
            output.emit(curve)
    else:
        output.table(measured.HEADER, [measured.cells(curve) for curve in curves])
