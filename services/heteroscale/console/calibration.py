"""The calibration for people: measured points over the model's curves, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from heteroscale.contracts.errors import Rejected
from heteroscale.simulator.outcome.calibration import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER: Final = ("curve", "points", "mean error", "largest error")
COLUMNS: Final = 3
DOTS: Final = 120


def plot(curves: Sequence[Curve]) -> bytes:
    """A panel a curve: dots are measured, lines the model. Raises Rejected without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra, needed for plots alone

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415 - as above
    except ImportError as error:
        raise Rejected("matplotlib", "plots need matplotlib: pip install 'heteroscale[plot]'", "--plot") from error
    rows = -(-len(curves) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(4.6 * COLUMNS, 3.5 * rows), layout="constrained", squeeze=False)
    for axes, curve in zip(grid.flat, curves, strict=False):
        _panel(axes, curve)
    for axes in grid.flat[len(curves) :]:
        axes.set_axis_off()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS)
    plt.close(figure)
    return out.getvalue()


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
