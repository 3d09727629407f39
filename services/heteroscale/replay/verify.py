"""A bundle through the live cores, stage by stage, each stage on the recorded inputs of its own: the first that differs is named."""

from __future__ import annotations

from collections.abc import Iterable

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import Topic
from heteroscale.replay import decision_stage, placement_stage, signal_stage
from heteroscale.replay.bundle import Bundle
from heteroscale.replay.recorded import Recorded
from heteroscale.replay.verdict import Divergence, Gap, StageName, StageResult, Tell, Verdict

STAGES = {
    StageName.SIGNALS: signal_stage.verify,
    StageName.DECISIONS: decision_stage.verify,
    StageName.PLACEMENTS: placement_stage.verify,
}


NEEDS = {
    StageName.SIGNALS: (Topic.TELEMETRY, Topic.SPECS, Topic.SIGNALS),
    StageName.DECISIONS: (Topic.SIGNALS, Topic.PLACEMENTS, Topic.SPECS, Topic.DECISIONS),
    StageName.PLACEMENTS: (Topic.COMMANDS, Topic.ACTUATIONS, Topic.FLEET, Topic.PLACEMENTS),
}


def verify(
    bundle: Bundle,
    *,
    stages: Iterable[StageName] = tuple(StageName),
    restart_every: int | None = None,
    progress: Tell = lambda _stage, _number: None,
) -> Verdict:
    """All stages. With `restart_every`, every stage forgets its memory at each n-th step and goes on from what is durable.

    Raises Rejected (`damaged`); a record that this build cannot read makes its stage not replayable.
    """
    recorded = Recorded(bundle)
    results: list[StageResult] = []
    for stage in stages:
        lacking = sorted(topic.value for topic in NEEDS[stage] if topic.value not in bundle.manifest.topics)
        if lacking:
            results.append(StageResult(stage, notes=[f"not compared: the bundle holds no {', '.join(lacking)}"]))
            continue
        progress(stage, 0)
        try:
            results.append(STAGES[stage](recorded, StageResult(stage, progress), restart_every=restart_every))
        except Rejected as error:
            if error.code != "unreadable":
                raise
            results.append(StageResult(stage, unreplayable=[str(error)]))
    for text in bundle.lacking():
        results[0].gaps.append(Gap(str(bundle.folder), text))
    return Verdict(results)


def document(judged: Verdict, took_s: float) -> dict[str, object]:
    """A verdict as one plain document."""
    return {
        "verdict": judged.outcome.value,
        "exit_code": judged.exit_code,
        "took_s": round(took_s, 3),
        "stages": [
            {
                "stage": stage.stage.value,
                "outcome": stage.outcome.value,
                "compared": stage.compared,
                "identical": stage.identical,
                "samples": stage.samples,
                "first": None if stage.first is None else _divergence(stage.first),
                "missing": [{"place": gap.place, "what": gap.what, "from_ms": gap.from_ms, "to_ms": gap.to_ms} for gap in stage.gaps],
                "not_replayable": stage.unreplayable,
                "notes": stage.notes,
            }
            for stage in judged.stages
        ],
    }


def _divergence(first: Divergence) -> dict[str, object]:
    return {
        "number": first.number,
        "place": first.place,
        "what": first.what,
        "outcome": first.outcome.value,
        "output": [one._asdict() for one in first.output],
        "state": [one._asdict() for one in first.state],
    }
