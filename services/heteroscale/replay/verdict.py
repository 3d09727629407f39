"""What a verification comes to: per stage what was compared and where it first differed; over all, one word and one exit code."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from heteroscale.replay.differ import Difference

TOLD_EVERY: Final = 500
SHOWN: Final = 5  # differences of the first divergence that are printed


class Outcome(enum.StrEnum):
    """From best to worst."""

    IDENTICAL = "identical"
    OTHER_REASON = "same action, other reason"
    DIVERGED = "diverged"
    NOT_REPLAYABLE = "not replayable"
    MISSING = "input missing"


EXIT: Final = {
    Outcome.IDENTICAL: 0,
    Outcome.OTHER_REASON: 1,
    Outcome.DIVERGED: 1,
    Outcome.NOT_REPLAYABLE: 2,
    Outcome.MISSING: 3,
}


class StageName(enum.StrEnum):
    """The stages, in the order in which one feeds the next."""

    SIGNALS = "signals"
    DECISIONS = "decisions"
    PLACEMENTS = "placements"


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first output that came out otherwise. `number` counts the stage's outputs from 1; `state` is the state's difference, if known."""

    number: int
    place: str
    what: str
    outcome: Outcome
    output: Sequence[Difference]
    state: Sequence[Difference] = ()
    service: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """Input that an output was made from and that is not in the bundle."""

    place: str
    what: str
    from_ms: int | None = None
    to_ms: int | None = None


Tell = Callable[[StageName, int], None]  # how far a stage has come: outputs compared, or samples read


@dataclass(slots=True)
class StageResult:
    """One stage. `tell` hears how far it has come, now and then."""

    stage: StageName
    tell: Tell = lambda _stage, _number: None
    compared: int = 0
    identical: int = 0
    other_reason: int = 0
    samples: int = 0
    first: Divergence | None = None
    gaps: list[Gap] = field(default_factory=list)
    unreplayable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """The worst of what was seen; a divergence says more than a gap that came after it."""
        if self.unreplayable:
            return Outcome.NOT_REPLAYABLE
        if self.gaps:
            return Outcome.MISSING
        return Outcome.IDENTICAL if self.first is None else self.first.outcome

    def same(self) -> None:
        """One more output, equal."""
        self.compared += 1
        self.identical += 1
        if self.compared % TOLD_EVERY == 0:
            self.tell(self.stage, self.compared)

    def differs(self, found: Divergence) -> None:
        """One more output, not equal. A real divergence takes the place of another reason."""
        self.compared += 1
        self.other_reason += found.outcome is Outcome.OTHER_REASON
        worse = self.first is None or (found.outcome is Outcome.DIVERGED and self.first.outcome is not Outcome.DIVERGED)
        if worse:
            self.first = found


@dataclass(frozen=True, slots=True)
class Verdict:
    """All stages."""

    stages: Sequence[StageResult]

    @property
    def outcome(self) -> Outcome:
        """The worst: what cannot be replayed, then what is missing, then the first stage that differs."""
        found = {stage.outcome for stage in self.stages}
        order = (Outcome.NOT_REPLAYABLE, Outcome.MISSING, Outcome.DIVERGED, Outcome.OTHER_REASON)
        return next((one for one in order if one in found), Outcome.IDENTICAL)

    @property
    def exit_code(self) -> int:
        """0 identical, 1 diverged, 2 not replayable, 3 input missing."""
        return EXIT[self.outcome]

    def stage(self, name: StageName) -> StageResult:
        """One stage; an empty one if it was not run."""
        return next((stage for stage in self.stages if stage.stage is name), StageResult(name))

    @property
    def first(self) -> tuple[StageResult, Divergence] | None:
        """The first stage that differs, and where."""
        return next(((stage, stage.first) for stage in self.stages if stage.first is not None), None)


def headline(verdict: Verdict, took_s: float) -> str:
    """`1 812 decisions, 1 812 identical (0.8 s)`, after the word."""
    decisions = verdict.stage(StageName.DECISIONS)
    counts = f"{grouped(decisions.compared)} decisions, {grouped(decisions.identical)} identical ({took_s:.1f} s)"
    outcome = verdict.outcome
    where = ""
    if outcome in {Outcome.DIVERGED, Outcome.OTHER_REASON} and verdict.first is not None:
        stage, first = verdict.first
        where = f" at {stage.stage.value[:-1]} {first.number} ({first.what})"
    return f"{outcome.value}{where}: {counts}"


def grouped(number: int) -> str:
    """Thousands set apart by a space."""
    return f"{number:,}".replace(",", " ")


def lines(verdict: Verdict) -> list[str]:
    """What follows the headline: a line a stage, the first divergence of each, what is missing."""
    found: list[str] = []
    for stage in verdict.stages:
        extra = f", {grouped(stage.samples)} samples read" if stage.samples else ""
        found.append(f"{stage.stage.value}: {grouped(stage.compared)} compared, {grouped(stage.identical)} identical{extra}")
        found += [f"  note: {note}" for note in stage.notes]
        found += [f"  not replayable: {text}" for text in stage.unreplayable]
        found += [f"  missing: {gap.what} ({gap.place})" for gap in stage.gaps]
        if stage.first is not None:
            found += _told(stage.first)
    return found


def _told(first: Divergence) -> list[str]:
    told = [f"  first {first.outcome.value}: {first.what} ({first.place})"]
    for title, differences in (("output", first.output), ("state", first.state)):
        told += [f"    {title} {one}" for one in differences[:SHOWN]]
        if len(differences) > SHOWN:
            told.append(f"    {title}: {len(differences) - SHOWN} more differences")
    return told
