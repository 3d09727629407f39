"""What a played loop has answered so far, and the rhythm in which it is asked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic


@dataclass(slots=True)
class Seen:
    """The newest answers, per service."""

    windows: dict[str, SignalWindow] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)
    moves: list[Decision] = field(default_factory=list)

    def take(self, topic: Topic, value: bytes) -> None:
        """Fold one record. A decision that comes again is kept once; an older placement says nothing."""
        match topic:
            case Topic.SIGNALS:
                window = codec.decode(SignalWindow, value)
                self.windows[window.service] = window
            case Topic.DECISIONS:
                decision = codec.decode(Decision, value)
                known = self.decisions.get(decision.service)
                if known is None or decision.at_ms > known.at_ms:
                    self.decisions[decision.service] = decision
                    if decision.action != "hold":
                        self.moves.append(decision)
            case Topic.PLACEMENTS:
                placement = codec.decode(Placement, value)
                if placement.dry_run or placement.seq is None:
                    return
                last = self.placements.get(placement.service)
                if last is None or (placement.gen, placement.seq) > (last.gen, last.seq or 0):
                    self.placements[placement.service] = placement


def rhythm(specs: Sequence[ServiceSpec]) -> tuple[int, int]:
    """Hop and phase of the lockstep in ms: each window's closing tick falls right after its last sample could have come."""
    hop = min(spec.window.hop.ms for spec in specs)
    phase = max(spec.window.allowed_lateness.ms + spec.window.interval.ms for spec in specs)
    return hop, phase % hop
