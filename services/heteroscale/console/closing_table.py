"""The closing table of a played day, and where to look next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from heteroscale.simulator.closing import Closing
from heteroscale.simulator.figures.report import ServiceFigures, Summary
from heteroscale.simulator.model.static import StaticFleet


def show(console: Console, closing: Closing, wall_s: float) -> None:
    """Figures beside static peak, then what is on each topic."""
    console.print(figures_table(closing))
    origin = "counted as it was served"
    if closing.records:
        console.print(records_table(closing))
        origin = "computed from the topics"
    console.print(f"{closing.summary.hours:g} h of traffic in {wall_s:.0f} s; every figure above is {origin}")


def figures_table(closing: Closing) -> Table:
    """One column a service and one for all; static peak beside each."""
    table = Table(title="What it cost, and what it gave", title_justify="left", box=None, header_style="dim")
    table.add_column("")
    for name in (*closing.services, "all"):
        table.add_column(name, justify="right")
    hours = closing.summary.hours
    columns = [_service_column(figures, closing.static[name], hours) for name, figures in closing.services.items()]
    columns.append(_total_column(closing.summary))
    for index, label in enumerate(ROWS):
        table.add_row(label, *[column[index] for column in columns])
    return table


ROWS: Final = (
    "GPU-hours",
    "GPU-hours, static peak",
    "saved",
    "static peak fleet (P:D)",
    "requests within SLO",
    "  within TTFT",
    "  within TBT (tokens)",
    "requests",
    "  not served",
    "GPU utilisation, prefill",
    "GPU utilisation, decode",
    "scale actions",
    "  changes of direction",
    "P:D held (decisions)",
    "minutes with a shortfall",
)


def _service_column(figures: ServiceFigures, static: StaticFleet, hours: float) -> list[str]:
    used = sum(figures.gpu_seconds.values()) / 3600
    return [
        f"{used:,.0f}",
        f"{static.gpus * hours:,.0f}",
        saved(used, static.gpus * hours),
        f"{static.prefill}:{static.decode}",
        percent(figures.in_slo / figures.requests if figures.requests else None),
        percent(figures.ttft_attainment),
        percent(figures.tbt_attainment),
        f"{figures.requests:,.0f}",
        f"{figures.unserved:,.0f}",
        percent(_util(figures, "prefill")),
        percent(_util(figures, "decode")),
        f"{figures.scale_actions}",
        f"{figures.direction_changes}",
        held(figures.decisions, figures.pair_violations),
        f"{figures.unplaced_minutes:g}",
    ]


def _total_column(summary: Summary) -> list[str]:
    return [
        f"{summary.gpu_hours:,.0f}",
        f"{summary.gpu_hours_static_peak:,.0f}",
        saved(summary.gpu_hours, summary.gpu_hours_static_peak),
        "",
        percent(summary.slo_attainment),
        percent(summary.ttft_attainment),
        percent(summary.tbt_attainment),
        f"{summary.requests:,}",
        f"{summary.unserved_requests:,}",
        percent(summary.gpu_util_by_role.get("prefill")),
        percent(summary.gpu_util_by_role.get("decode")),
        f"{summary.scale_actions}",
        f"{summary.direction_changes}",
        held(summary.decisions, summary.pair_violations),
        f"{summary.unplaced_minutes:g}",
    ]


def records_table(closing: Closing) -> Table:
    """Records per topic."""
    table = Table(title="On the topics", title_justify="left", box=None, header_style="dim")
    table.add_column("topic")
    table.add_column("records", justify="right")
    for topic, count in closing.records.items():
        table.add_row(topic, f"{count:,}")
    return table


def verdict(console: Console, faults: Sequence[str]) -> None:
    """Whether it really worked."""
    if not faults:
        console.print("[green]It worked:[/green] all commands placed, no dead letters, no GPU reserved twice, none leaked.")
        return
    console.print("[red]It did not work:[/red]")
    for fault in faults:
        console.print(f"  {fault}", markup=False)


def percent(share: float | None) -> str:
    """`99.94 %`, or `-`."""
    return "-" if share is None else f"{share * 100:.2f} %"


def saved(used: float, static: float) -> str:
    """`41 %` less than static, negative if more."""
    return "-" if static <= 0 else f"{(1 - used / static) * 100:.0f} %"


def held(decisions: int, violations: int) -> str:
    """`1,440 of 1,440`."""
    return f"{decisions - violations:,} of {decisions:,}"


def _util(figures: ServiceFigures, role: str) -> float | None:
    seconds = figures.gpu_seconds.get(role)
    return figures.work_gpu_seconds.get(role, 0.0) / seconds if seconds else None
