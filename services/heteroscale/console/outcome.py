"""The outcome for people: tables, plots of the frontiers, and one HTML page with both."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from heteroscale.contracts.errors import Rejected
from heteroscale.simulator.outcome.compare import TARGET, Interval, Outcome, Row

HEADER: Final = (
    "policy",
    "setting",
    "GPU-hours",
    "of clairvoyant",
    "GPU util",
    "gain on static",
    "within SLO",
    "minutes ok",
    "turns",
    "P:D off, min",
)
DOTS: Final = 130


def cells(row: Row) -> list[str]:
    """One line of the table."""
    return [
        row.policy,
        f"{row.setting:g}",
        spread(row.gpu_hours, "{:,.0f}"),
        "-" if row.over_clairvoyant is None else spread(row.over_clairvoyant, "{:.2f}"),
        spread(row.gpu_util, "{:.3f}"),
        spread(row.gain_points, "{:+.1f}"),
        spread(scaled(row.slo_attainment), "{:.2f}") + " %",
        spread(scaled(row.minutes_within), "{:.1f}") + " %",
        spread(row.direction_changes, "{:.0f}"),
        spread(row.imbalance_minutes, "{:.0f}"),
    ]


def scaled(value: Interval) -> Interval:
    """In per cent."""
    return Interval(mean=value.mean * 100, half=None if value.half is None else value.half * 100)


def spread(value: Interval, form: str) -> str:
    """`1,234 ±5`; without ± for one seed or where the spread rounds to nothing."""
    text = form.format(value.mean)
    half = "" if value.half is None else form.replace("+", "").format(value.half)
    return text if not half.strip("0.,") else f"{text} ±{half}"


def ranked(rows: Sequence[Row], case: str) -> list[Row]:
    """Those that reach the target first, the cheaper first."""
    return sorted(
        (row for row in rows if row.case == case),
        key=lambda row: (row.slo_attainment.mean < TARGET - 0.005, row.gpu_hours.mean, row.policy),
    )


def markdown(outcome: Outcome) -> str:
    """A table a case."""
    lines = []
    for case in outcome.plan.cases:
        rows = ranked(outcome.rows, case)
        lines += [f"### {case} (settings chosen on {_elsewhere(rows)})", "", "| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _elsewhere(rows: Sequence[Row]) -> str:
    return next((row.chosen_on for row in rows if row.chosen_on != row.case), "itself")


def plot(outcome: Outcome, case: str) -> bytes:
    """The frontiers of a case as a PNG. Raises Rejected without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra, needed for plots alone

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415 - as above
    except ImportError as error:
        raise Rejected("matplotlib", "plots need matplotlib: pip install 'heteroscale[plot]'", "--out") from error
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for policy in outcome.plan.policies:
        points = sorted((one.gpu_hours, 100 * one.slo_attainment) for one in outcome.frontier if one.case == case and one.policy == policy)
        width = 2.5 if policy == "heteroscale" else 1.0
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=policy, linewidth=width)
    axes.axhline(100 * TARGET, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="GPU-hours", ylabel="requests within SLO, %", title=f"{case}: each policy over its main setting")
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]), top=100.5)
    axes.legend(fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS)
    plt.close(figure)
    return out.getvalue()


def page(outcome: Outcome) -> str:
    """One HTML page, images inside."""
    parts = ["<!doctype html><meta charset=utf-8><title>heteroscale: outcome</title>", f"<style>{STYLE}</style><h1>Outcome</h1>"]
    for case in outcome.plan.cases:
        rows = ranked(outcome.rows, case)
        parts.append(f"<h2>{html.escape(case)}</h2><p>Settings chosen on {html.escape(_elsewhere(rows))}.</p>")
        head = "".join(f"<th>{html.escape(name)}</th>" for name in HEADER)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row)) + "</tr>" for row in rows)
        image = base64.b64encode(plot(outcome, case)).decode()
        parts.append(f"<table><tr>{head}</tr>{body}</table><img alt='frontiers' src='data:image/png;base64,{image}'>")
    return "\n".join(parts)


STYLE: Final = """
body { font: 15px system-ui; margin: 2em; max-width: 70em }
td, th { padding: .2em .8em; text-align: right }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% }
"""


def write(outcome: Outcome, folder: Path) -> list[Path]:
    """outcome.html, a plot a case and the tables as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "outcome.html", folder / "outcome.md"]
    written[0].write_text(page(outcome), "utf-8")
    written[1].write_text(markdown(outcome), "utf-8")
    for case in outcome.plan.cases:
        path = folder / f"{case}.png"
        path.write_bytes(plot(outcome, case))
        written.append(path)
    return written
