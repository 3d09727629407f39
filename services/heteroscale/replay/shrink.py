"""The smallest part of a bundle that still comes out the same way: services, topics and time are dropped while it does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts import keys
from heteroscale.contracts.topics import Topic
from heteroscale.replay import bundle as bundles
from heteroscale.replay import verify
from heteroscale.replay.bundle import Bundle, BundleWriter, Taken
from heteroscale.replay.manifest import Manifest, Span
from heteroscale.replay.verdict import StageName, Verdict

BISECTIONS: Final = 12
AFTER_MS: Final = 60_000  # what is kept after the divergence: records are stamped a little later than what they are about
OUTPUTS: Final = {
    StageName.SIGNALS: frozenset({Topic.TELEMETRY, Topic.SIGNALS, Topic.SPECS}),
    StageName.DECISIONS: frozenset({Topic.SIGNALS, Topic.PLACEMENTS, Topic.SPECS, Topic.DECISIONS, Topic.DECISION_STATE, Topic.COMMANDS}),
    StageName.PLACEMENTS: frozenset({Topic.COMMANDS, Topic.ACTUATIONS, Topic.FLEET, Topic.PLACEMENTS, Topic.SPECS}),
}
BEHIND: Final = frozenset({Topic.PLACEMENTS, Topic.COMMANDS, Topic.ACTUATIONS})  # stamped earlier than they are read
BEHIND_MS: Final = 180_000
BY_SERVICE: Final = frozenset({Topic.TELEMETRY, Topic.SIGNALS, Topic.DECISIONS, Topic.DECISION_STATE, Topic.SPECS})
Mark = tuple[StageName, str, int]


@dataclass(frozen=True, slots=True)
class Cut:
    """What is kept of a bundle."""

    window: Span
    topics: frozenset[Topic]
    services: frozenset[str]
    since_ms: int = 0
    states_since_ms: int = 0
    until_ms: int = 2**62

    def keeps(self, topic: Topic, record: Record) -> bool:
        """Whether a record stays. Compacted topics that say how things stand are kept whole."""
        if topic not in self.topics:
            return False
        if topic in BY_SERVICE and record.key is not None and keys.service_of(record.key) not in self.services:
            return False
        if topic in {Topic.SPECS, Topic.FLEET}:
            return True
        since_ms = self.states_since_ms if topic is Topic.DECISION_STATE else self.since_ms
        if topic in BEHIND:
            since_ms -= BEHIND_MS
        return since_ms <= record.timestamp_ms <= self.until_ms


def mark_of(verdict: Verdict) -> Mark | None:
    """Where a verdict first differs: stage, service, instant."""
    first = verdict.first
    return None if first is None else (first[0].stage, first[1].service, first[1].at_ms)


def shrink(source: Bundle, mark: Mark, tried: Callable[[int], None] = lambda _number: None) -> Cut:
    """The smallest cut that still first differs at `mark`. Greedy: each step is kept only if it does. `tried` hears how many were."""
    best = everything(source)
    numbers = itertools.count(1)
    for candidate in _narrower(best, mark):
        tried(next(numbers))
        if _still(source, candidate, mark):
            best = candidate
    low, high = _oldest(source, best), mark[2]
    states_ms = [record.timestamp_ms for record in source.records(Topic.DECISION_STATE) if best.keeps(Topic.DECISION_STATE, record)]
    for _ in range(BISECTIONS):
        middle = (low + high) // 2
        later = _later(best, middle, states_ms)
        tried(next(numbers))
        if _still(source, later, mark):
            best, low = later, middle
        else:
            high = middle
    return best


def everything(source: Bundle) -> Cut:
    """All of it."""
    return Cut(source.manifest.window, frozenset(Topic(name) for name in source.manifest.topics), frozenset(source.manifest.services))


def _narrower(cut: Cut, mark: Mark) -> Iterator[Cut]:
    """Candidates: the stage's own topics, then the one service, then nothing after the divergence."""
    stage, service, at_ms = mark
    topics = replace(cut, topics=cut.topics & OUTPUTS[stage])
    yield topics
    alone = topics if stage is StageName.PLACEMENTS else replace(topics, services=frozenset({service}))
    yield alone
    yield replace(alone, until_ms=at_ms + AFTER_MS, window=Span(from_ms=cut.window.from_ms, to_ms=min(cut.window.to_ms, at_ms)))


def _later(cut: Cut, since_ms: int, states_ms: Sequence[int]) -> Cut:
    """Beginning later, from the last state before."""
    before = [at_ms for at_ms in states_ms if at_ms <= since_ms]
    span = Span(from_ms=max(cut.window.from_ms, since_ms), to_ms=cut.window.to_ms)
    return replace(cut, since_ms=since_ms, states_since_ms=max(before, default=0), window=span)


def _oldest(source: Bundle, cut: Cut) -> int:
    """The instant of the oldest record that is kept, of the topics that have a beginning."""
    begun = cut.topics - {Topic.SPECS, Topic.FLEET}
    firsts = [record.timestamp_ms for topic in begun for record in source.records(topic) if cut.keeps(topic, record)]
    return min(firsts, default=cut.window.from_ms)


def _still(source: Bundle, cut: Cut, mark: Mark) -> bool:
    with TemporaryDirectory(prefix="heteroscale-shrink-") as own:
        write(source, cut, Path(own) / "bundle")
        found = verify.verify(bundles.open_folder(Path(own) / "bundle", check=False), stages=[mark[0]])
    return mark_of(found) == mark and not any(stage.gaps or stage.unreplayable for stage in found.stages)


def write(source: Bundle, cut: Cut, folder: Path) -> Manifest:
    """The cut as a bundle of its own. Offsets stay as recorded."""
    writer = BundleWriter(folder, source.prefix)
    for topic in Topic:
        parts = source.parts(topic)
        if topic not in cut.topics or not parts:
            continue
        first = _first_kept(source, cut, topic)
        for partition, part in sorted(parts.items()):
            begin = first.get(partition, part.next_offset)
            writer.covers(topic, partition, Taken(max(part.from_offset, begin) if begin else part.from_offset, part.next_offset, 0, None))
        for record in source.records(topic):
            if cut.keeps(topic, record):
                writer.write(topic, record)
    about = msgspec.structs.replace(source.manifest, window=cut.window, services=sorted(cut.services), topics={}, cuts={}, files={})
    return writer.finish(about, "A shrunk incident, kept as a test.\n")


def _first_kept(source: Bundle, cut: Cut, topic: Topic) -> Mapping[int, int]:
    """The offset of the first record kept, per partition."""
    found: dict[int, int] = {}
    for record in source.records(topic):
        if record.partition not in found and cut.keeps(topic, record):
            found[record.partition] = record.offset
    return found
