"""The outcome for people: tables in Markdown, plots of the frontiers, and one HTML page with both. Nothing in them is typed by hand."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from heteroscale.console import pictures
from heteroscale.simulator.outcome import cases
from heteroscale.simulator.outcome.compare import OWN_TRACE, SETTINGS, TARGET, Basis, Interval, Outcome, Row
from heteroscale.simulator.outcome.study import Finding, Study
from heteroscale.simulator.policies import OURS

ROW_HEADER: Final = (
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
    "unplaced, min",
    "across s2",
)
GAIN_HEADER: Final = (
    "trace",
    "start-up",
    "setting of",
    "setting",
    "GPU-hours",
    "GPU util",
    "static at equal attainment",
    "gain, points",
    "within SLO",
    "of clairvoyant",
)
SIGNAL_HEADER: Final = ("signal", "correlation", "target", "GPU-hours", "GPU util", "within SLO", "turns")
COMPARABLE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, what the table is about, and its cells."""

    title: str
    about: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: either may be missing."""

    outcome: Outcome | None = None
    study: Study | None = None
    tables: list[Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.outcome is not None:
            self.tables.extend(outcome_tables(self.outcome))
        if self.study is not None:
            self.tables.extend(signal_tables(self.study))


def outcome_tables(outcome: Outcome) -> list[Table]:
    """Ours against static peak and the bound, then the policies case by case, their frontiers, and the other start-up times."""
    found = [_gains(outcome)] if any(row.policy == OURS for row in outcome.rows) else []
    for case in outcome.plan.cases:
        main = outcome.plan.startups(case)[0]
        here = [row for row in outcome.rows if row.case == case and row.startup_s == main]
        played = cases.CASES[case].cut(outcome.plan.hours)
        length = "all of it" if played is None else f"its first {played:g} h"
        source = f"settings chosen on {cases.CASES[case].tuned_on}"
        elsewhere = f"{cases.CASES[case].about}, {length}; start-up {main:g} s; {_seeds(outcome)}; {source}. The attaining come first."
        tuned = [row for row in here if row.basis is Basis.ELSEWHERE or (row.policy in OWN_TRACE and row.basis is Basis.ITSELF)]
        found.append(Table(f"{case}: settings of another trace", elsewhere, ROW_HEADER, _lines(tuned)))
        plain = [row for row in here if row.basis is Basis.DEFAULT]
        found.append(Table(f"{case}: documented defaults", f"Start-up {main:g} s; one seed.", ROW_HEADER, _lines(plain)))
        found.append(_frontier(outcome, case, main))
        found += [_other_startups(outcome, case)] if len(outcome.plan.startups(case)) > 1 else []
    return found


def _seeds(outcome: Outcome) -> str:
    return "one seed" if outcome.plan.seeds == 1 else f"{outcome.plan.seeds} seeds"


def _lines(rows: Iterable[Row]) -> list[list[str]]:
    return [cells(row) for row in ranked(rows)]


def _gains(outcome: Outcome) -> Table:
    lines = []
    for row in outcome.rows:
        if row.policy != OURS or row.basis is Basis.DEFAULT:
            continue
        bound = "-" if row.over_clairvoyant is None else spread(row.over_clairvoyant, "{:.2f}")
        lines.append([
            row.case, f"{row.startup_s:g} s", row.chosen_on, setting(row), spread(row.gpu_hours, "{:,.0f}"), spread(row.gpu_util, "{:.3f}"),
            spread(row.gpu_util_static, "{:.3f}"), gain(row), per_cent(row.slo_attainment), bound,
        ])  # fmt: skip
    about = f"Mean and 95 % interval over {_seeds(outcome)} of arrivals and start-up times."
    return Table("heteroscale against static peak and the bound", about, GAIN_HEADER, lines)


def _frontier(outcome: Outcome, case: str, startup_s: float) -> Table:
    lines = []
    for policy in outcome.plan.policies:
        trials = [one for one in outcome.frontier if (one.case, one.policy, one.startup_s) == (case, policy, startup_s)]
        lines.append([policy, *(f"{one.setting or 0:g}: {one.gpu_hours:,.0f}, {one.slo_attainment * 100:.2f} %" for one in trials)])
    about = f"Setting: GPU-hours, requests within SLO. Start-up {startup_s:g} s, one seed; compare cells from {TARGET * 100:.0f} % up."
    return Table(f"{case}: frontiers", about, ["policy", *([""] * len(SETTINGS[OURS]))], lines)


def _other_startups(outcome: Outcome, case: str) -> Table:
    times = sorted(outcome.plan.startups(case))
    lines = []
    for policy in outcome.plan.policies:
        line = [policy]
        for startup in times:
            row = next(
                row
                for row in outcome.rows
                if (row.case, row.policy, row.startup_s) == (case, policy, startup)
                and row.basis is (Basis.ITSELF if policy in OWN_TRACE else Basis.ELSEWHERE)
            )
            line.append(f"{setting(row)}: {spread(row.gpu_hours, '{:,.0f}')}, {per_cent(row.slo_attainment)}")
        lines.append(line)
    about = "Each cell is setting: GPU-hours, requests within SLO; settings chosen on the other trace with the main start-up time."
    return Table(f"{case}: start-up times", about, ["policy", *(f"{startup:g} s" for startup in times)], lines)


def signal_tables(study: Study) -> list[Table]:
    """One table a case."""
    about = "The law on one signal alone, without guards; the target is the best of four on the trace itself."
    return [
        Table(f"{case}: the same law on each signal", about, SIGNAL_HEADER, [signal_cells(row) for row in study.rows if row.case == case])
        for case in dict.fromkeys(row.case for row in study.rows)
    ]


def cells(row: Row) -> list[str]:
    """One line of a case's table."""
    return [
        row.policy,
        setting(row),
        spread(row.gpu_hours, "{:,.0f}"),
        "-" if row.over_clairvoyant is None else spread(row.over_clairvoyant, "{:.2f}"),
        spread(row.gpu_util, "{:.3f}"),
        gain(row),
        per_cent(row.slo_attainment),
        per_cent(row.minutes_within, 1),
        spread(row.direction_changes, "{:.0f}"),
        spread(row.imbalance_minutes, "{:.0f}"),
        spread(row.unplaced_minutes, "{:.0f}"),
        spread(row.cross_s2_pairs, "{:.0f}"),
    ]


def signal_cells(row: Finding) -> list[str]:
    """One line of the study."""
    return [
        row.signal,
        "-" if row.correlation is None else spread(row.correlation, "{:+.2f}"),
        f"{row.setting:g}",
        spread(row.gpu_hours, "{:,.0f}"),
        spread(row.gpu_util, "{:.3f}"),
        per_cent(row.slo_attainment),
        spread(row.direction_changes, "{:.0f}"),
    ]


def setting(row: Row) -> str:
    """The setting's value."""
    return "default" if row.setting is None else f"{row.setting:g}"


def gain(row: Row) -> str:
    """Points of utilisation over static peak at equal attainment; nothing where so little is attained that no fleet is to be compared."""
    return "-" if row.slo_attainment.mean < COMPARABLE else spread(row.gain_points, "{:+.1f}")


def per_cent(value: Interval, digits: int = 2) -> str:
    """A share in per cent."""
    share = Interval(mean=value.mean * 100, half=None if value.half is None else value.half * 100)
    return spread(share, f"{{:.{digits}f}}") + " %"


def spread(value: Interval, form: str) -> str:
    """`1,234 ± 5`; without ± for one seed or where the spread rounds to nothing."""
    text = form.format(value.mean)
    half = "" if value.half is None else form.replace("+", "").format(value.half)
    return text if not half.strip("0.,") else f"{text} ± {half}"


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Those that reach the target first, the cheaper first; then the others, the nearer to the target first."""

    def rank(row: Row) -> tuple[bool, float, str]:
        short = round(row.slo_attainment.mean, 4) < TARGET
        return (short, -row.slo_attainment.mean if short else row.gpu_hours.mean, row.policy)

    return sorted(rows, key=rank)


def markdown(findings: Findings) -> str:
    """All tables."""
    lines: list[str] = []
    for table in findings.tables:
        lines += [f"### {table.title}", "", table.about, "", _row(table.header), "|---" * len(table.header) + "|"]
        lines += [*map(_row, table.rows), ""]
    return "\n".join(lines)


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def page(findings: Findings) -> str:
    """One HTML page, images inside."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>heteroscale: outcome</title><style>{STYLE}</style><h1>Outcome</h1>",
    ]
    if findings.outcome is not None:
        parts.append("<div class=plots>")
        for case in findings.outcome.plan.cases:
            image = base64.b64encode(pictures.frontiers(findings.outcome, case)).decode()
            parts.append(f"<img alt='frontiers of {html.escape(case)}' src='data:image/png;base64,{image}'>")
        parts.append("</div>")
    for table in findings.tables:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in table.rows)
        parts.append(f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.about)}</p>")
        parts.append(f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")
    return "\n".join(parts)


STYLE: Final = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 100em; padding: 0 1em; color: #222 }
h2 { font-size: 1.15em; margin: 2em 0 .3em }
p { margin: .2em 0 .8em; color: #555 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .25em .7em; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4 }
td:first-child, th:first-child { text-align: left }
tbody tr:hover { background: #f6f8fa }
.wide { overflow-x: auto }
.plots { display: flex; flex-wrap: wrap; gap: 1em }
img { width: 46em; max-width: 100% }
"""


def write(findings: Findings, folder: Path) -> list[Path]:
    """outcome.html, outcome.md and a plot a case."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "outcome.html", folder / "outcome.md"]
    written[0].write_text(page(findings), "utf-8")
    written[1].write_text(markdown(findings), "utf-8")
    if findings.outcome is not None:
        for case in findings.outcome.plan.cases:
            written.append(folder / f"{case}.png")
            written[-1].write_bytes(pictures.frontiers(findings.outcome, case))
    return written
