"""A counterfactual for people: its horizon, an outcome table, and the decisions that would have been other ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from heteroscale.cli import decision_text
from heteroscale.contracts.units import instant_text
from heteroscale.replay import whatif
from heteroscale.replay.whatif import Answer, Figures, Step

ROWS: Final = (
    ("decisions", "decisions"),
    ("scale-outs", "scale_outs"),
    ("scale-ins", "scale_ins"),
    ("restores", "restores"),
    ("direction changes", "direction_changes"),
    ("GPU-hours commanded", "gpu_hours"),
    ("most GPUs", "peak_gpus"),
    ("guard-alarm minutes", "guard_alarm_minutes"),
)
SHOWN: Final = 40


def lines(answers: Sequence[Answer], *, diff: bool) -> Iterator[str]:
    """All services."""
    for answer in answers:
        yield from _service(answer, diff=diff)


def _service(answer: Answer, *, diff: bool) -> Iterator[str]:
    if not answer.steps:
        yield f"{answer.service}: no decision in the bundle"
        return
    changed = [step for step in answer.steps if step.changed]
    if answer.horizon_ms is None:
        yield f"{answer.service}: nothing would have changed in {len(answer.steps)} decisions (exact)"
        told = [step for step in answer.steps if step.other is not None and step.other.stages != step.recorded.stages]
        if told:
            yield f"  {len(told)} decisions would have had other stages, with the same action"
        return
    yield f"{answer.service}: exact up to {instant_text(answer.horizon_ms)}, the first changed action (the horizon)"
    first = changed[0]
    yield f"  recorded {_title(first, other=False)}"
    yield f"  instead  {_title(first, other=True)}"
    summary = whatif.summary(answer)
    yield ""
    yield f"  {'':22}{'up to horizon':>15}{'recorded after':>16}{'modelled after':>16}"
    for title, name in ROWS:
        yield f"  {title:22}{_cell(summary.before, name):>15}{_cell(summary.recorded, name):>16}{_cell(summary.modelled, name):>16}"
    yield ""
    yield f"  modelled: demand as recorded, start-up {answer.startup_ms / 1000:g} s, latency unknown while more serves than then"
    if diff:
        yield f"  {len(changed)} of {len(answer.steps)} decisions differ:"
        for step in changed[:SHOWN]:
            mark = "exact   " if step.exact else "modelled"
            yield f"  {mark} {instant_text(step.recorded.at_ms)}"
            yield f"    - {_title(step, other=False)}"
            yield f"    + {_title(step, other=True)}"
        if len(changed) > SHOWN:
            yield f"  … and {len(changed) - SHOWN} more (--json has all)"


def _title(step: Step, *, other: bool) -> str:
    decision = step.other if other else step.recorded
    if decision is None:
        return "no decision"
    return f"{decision.action.value} ({decision.reason.value}): {decision_text.moves(decision)}"


def _cell(figures: Figures, name: str) -> str:
    return f"{getattr(figures, name):g}"
