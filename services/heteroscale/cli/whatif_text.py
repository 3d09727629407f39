"""A counterfactual for people: its horizon, an outcome table, and the decisions that would have been other ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from heteroscale.cli import decision_text
from heteroscale.contracts.units import instant_text
from heteroscale.replay.figures import Figures
from heteroscale.replay.whatif import Answer, Moved

ROWS: Final = (
    ("decisions", "decisions", "g"),
    ("scale-outs", "scale_outs", "g"),
    ("scale-ins", "scale_ins", "g"),
    ("restores", "restores", "g"),
    ("direction changes", "direction_changes", "g"),
    ("GPU-hours commanded", "gpu_hours", "g"),
    ("most GPUs", "peak_gpus", "g"),
    ("guard-alarm minutes", "guard_alarm_minutes", "g"),
    ("requests within SLO", "in_slo", ".2%"),
)
SHOWN: Final = 40


def lines(answers: Sequence[Answer], *, diff: bool) -> Iterator[str]:
    """All services."""
    for number, answer in enumerate(answers):
        if number:
            yield ""
        yield from _service(answer, diff=diff)


def _service(answer: Answer, *, diff: bool) -> Iterator[str]:
    if not answer.decisions:
        yield f"{answer.service}: no decision in the bundle"
        return
    if answer.horizon_ms is None:
        yield f"{answer.service}: nothing would have changed in {answer.decisions} decisions (exact)"
        if answer.reworded:
            yield f"  {answer.reworded} decisions would have had other stages, with the same action"
        yield ""
        yield from _rows((("recorded and instead", answer.before, 24),))
        yield from _notes(answer)
        return
    yield f"{answer.service}: exact up to {instant_text(answer.horizon_ms)}, the first changed action (the horizon)"
    first = answer.changed[0]
    yield f"  recorded {_title(first.recorded)}"
    yield f"  instead  {_title(first.instead)}"
    yield ""
    yield from _table(answer)
    if diff:
        yield from _differences(answer)


def _table(answer: Answer) -> Iterator[str]:
    """Simulated columns are named so; the first of them is the recorded policy, and shows what the simulator gets wrong."""
    yield f"  {'':22}{'up to':>12}{'after it':>12}{'after it, simulated':>26}"
    yield from _rows(
        (
            ("horizon", answer.before, 12),
            ("recorded", answer.recorded, 12),
            ("as recorded", answer.simulated_as_recorded, 14),
            ("instead", answer.simulated, 12),
        )
    )
    yield ""
    startup = "" if answer.startup_ms is None else f", start-up {answer.startup_ms / 1000:g} s"
    if answer.simulated is not None:
        yield f"  simulated: demand as recorded{startup}; the two simulated columns are the ones to compare"
    yield from _notes(answer)


def _notes(answer: Answer) -> Iterator[str]:
    for note in answer.notes:
        yield f"  note: {note}"


def _rows(columns: Sequence[tuple[str, Figures | None, int]]) -> Iterator[str]:
    """Titles, figures and widths of the columns, a row a figure."""
    yield f"  {'':22}{''.join(f'{title:>{width}}' for title, _, width in columns)}"
    for title, name, shape in ROWS:
        if all(_value(figures, name) is None for _, figures, _ in columns):
            continue
        cells = (f"{_cell(figures, name, shape):>{width}}" for _, figures, width in columns)
        yield f"  {title:22}{''.join(cells)}"


def _differences(answer: Answer) -> Iterator[str]:
    yield f"  {len(answer.changed)} of {answer.decisions} decisions differ:"
    for change in answer.changed[:SHOWN]:
        yield f"  {'exact    ' if change.exact else 'simulated'} {instant_text(change.at_ms)}"
        yield f"    - {_title(change.recorded)}"
        yield f"    + {_title(change.instead)}"
    if len(answer.changed) > SHOWN:
        yield f"  … and {len(answer.changed) - SHOWN} more (--json has all)"


def _title(moved: Moved | None) -> str:
    if moved is None:
        return "no decision"
    counts = (
        decision_text.move(role, moved.before.get(role, after["replicas"]), after["replicas"], after["draining"])
        for role, after in moved.after.items()
    )
    return f"{moved.action} ({moved.reason}): {', '.join(counts)}"


def _value(figures: Figures | None, name: str) -> float | None:
    found: float | None = None if figures is None else getattr(figures, name)
    return found


def _cell(figures: Figures | None, name: str, shape: str) -> str:
    value = _value(figures, name)
    return "-" if value is None else format(value, shape)
