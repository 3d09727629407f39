"""The pictures of the benchmarks, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from heteroscale.console.figure import figure, png
from heteroscale.simulator.outcome.calibration import Curve
from heteroscale.simulator.outcome.compare import TARGET, Outcome
from heteroscale.simulator.policies import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS: Final = 3
MARKS: Final = "oosv^Dd<>"
LOWEST: Final = 90.0  # per cent within SLO; what attains less is off the picture


def frontiers(outcome: Outcome, case: str) -> bytes:
    """A line a policy over its main setting, with the main start-up time. Raises Rejected without matplotlib."""
    startup = outcome.plan.startups(case)[0]
    drawn = figure((8.5, 5.0), "--out")
    axes = drawn.subplots()
    for policy, mark in zip(outcome.plan.policies, MARKS, strict=False):
        trials = [one for one in outcome.frontier if (one.case, one.policy, one.startup_s) == (case, policy, startup)]
        points = sorted((one.gpu_hours, 100 * one.slo_attainment) for one in trials)
        width = 2.5 if policy == OURS else 1.0
        axes.plot([x for x, _ in points], [y for _, y in points], marker=mark, markersize=5, label=policy, linewidth=width)
    axes.axhline(100 * TARGET, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="GPU-hours", ylabel="requests within SLO, %", title=f"{case}: each policy over its main setting")
    axes.set_ylim(bottom=LOWEST, top=100.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return png(drawn)


def calibration(curves: Sequence[Curve]) -> bytes:
    """A panel a curve: dots are measured, lines the model. Raises Rejected without matplotlib."""
    rows = -(-len(curves) // COLUMNS)
    drawn = figure((4.6 * COLUMNS, 3.5 * rows), "--plot")
    grid = drawn.subplots(rows, COLUMNS, squeeze=False)
    for axes, curve in zip(grid.flat, curves, strict=False):
        _panel(axes, curve)
    for axes in grid.flat[len(curves) :]:
        axes.set_axis_off()
    return png(drawn)


def _panel(axes: Axes, curve: Curve) -> None:
    for series in dict.fromkeys(point.series for point in curve.points):
        points = [point for point in curve.points if point.series == series]
        (line,) = axes.plot([point.x for point in points], [point.model for point in points], linewidth=1, label=series or "model")
        dots = [point.measured for point in points]
        axes.plot([point.x for point in points], dots, "o", markersize=4, color=line.get_color(), label="" if series else curve.against)
    axes.set(xlabel=curve.x, ylabel=curve.y)
    axes.set_title(f"{curve.name}: within {curve.error_max * 100:.1f} %", fontsize=9)
    axes.legend(fontsize=7, frameon=False)
    axes.grid(alpha=0.25)
