"""What the law says of one track, and the table of reason codes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from heteroscale.contracts.decision_state import RoleState, TrackState
from heteroscale.contracts.decisions import Action, Reason
from heteroscale.contracts.names import RoleName
from heteroscale.decision.law.staged import Staged
from heteroscale.decision.law.tracks import Track


class Use(enum.StrEnum):
    """What a reason code explains."""

    MOVE = "move"
    RESTORE = "restore"
    FINALIZE = "finalize"
    HOLD = "hold"


class ReasonEntry(msgspec.Struct, frozen=True):
    """Who uses a code, and its meaning in one sentence."""

    uses: tuple[Use, ...]
    by: str
    meaning: str


def _entry(use: Use, by: str, meaning: str) -> ReasonEntry:
    return ReasonEntry((use,), by, meaning)


REASONS: Final[Mapping[Reason, ReasonEntry]] = {
    Reason.DEMAND: ReasonEntry((Use.MOVE, Use.RESTORE), "raw", "the signal asks for another count"),
    Reason.GUARD_MODERATE: _entry(Use.MOVE, "guard", "a latency reached its moderate threshold"),
    Reason.GUARD_SEVERE: _entry(Use.MOVE, "guard", "a latency reached its severe threshold"),
    Reason.SCHEDULE: _entry(Use.MOVE, "schedule", "an active schedule fixes another count"),
    Reason.BOUNDS: _entry(Use.MOVE, "bounds", "the count lay outside the bounds of a role"),
    Reason.FALLBACK: _entry(Use.MOVE, "raw", "nothing was heard for too long, so the fallback's count is taken"),
    Reason.REPAIR: _entry(Use.MOVE, "final", "a role did not match the ratio"),
    Reason.EXTERNAL_CHANGE: _entry(Use.MOVE, "raw", "someone else changed what runs, and the count follows"),
    Reason.GUARD: _entry(Use.RESTORE, "soft", "a latency asks for what drains"),
    Reason.OBSERVED: _entry(Use.FINALIZE, "soft", "what drained was not missed"),
    Reason.STEADY: _entry(Use.HOLD, "any", "nothing asked for a change"),
    Reason.COLD_START: _entry(Use.HOLD, "raw", "the state was new, so one full window is only watched"),
    Reason.MISSING_DATA: _entry(Use.HOLD, "raw", "too little is known to scale in"),
    Reason.GUARD_BLOCKS: _entry(Use.HOLD, "guard", "a latency is too near its threshold to scale in"),
    Reason.GUARD_WAITS_FOR_PENDING: _entry(Use.HOLD, "guard", "a latency is high, and capacity for it is on its way"),
    Reason.PENDING: _entry(Use.HOLD, "raw", "capacity is on its way, and what serves is too busy to tell the demand"),
    Reason.AT_BOUND: _entry(Use.HOLD, "bounds", "the count is at the bound of a role"),
    Reason.SCHEDULE_FIXED: _entry(Use.HOLD, "schedule", "an active schedule fixes the count"),
    Reason.RATE_LIMITED: _entry(Use.HOLD, "rate", "the rate policies are used up for now"),
    Reason.STABILIZING: _entry(Use.HOLD, "stabilize", "a recent recommendation disagrees"),
    Reason.COOLDOWN: _entry(Use.HOLD, "cooldown", "the last move is too recent"),
    Reason.CAPACITY_LIMITED: _entry(Use.HOLD, "capacity", "placement has no room for what is commanded already"),
    Reason.OBSERVING: _entry(Use.HOLD, "soft", "a soft scale-in is being watched"),
    Reason.UNADOPTED: _entry(Use.HOLD, "soft", "instances that were not placed by us would have to go"),
    Reason.PAUSED: _entry(Use.HOLD, "final", "the mode blocks this direction"),
    Reason.SUSPENDED: _entry(Use.HOLD, "final", "the service is let go for now"),
    Reason.SPEC_CHANGED: _entry(Use.HOLD, "raw", "the window was built under an older spec"),
}

WISH_REASONS = frozenset(reason for reason, entry in REASONS.items() if Use.MOVE in entry.uses)
HOLD_REASONS = frozenset(reason for reason, entry in REASONS.items() if Use.HOLD in entry.uses)


class Verdict(msgspec.Struct, frozen=True):
    """One track in one window: the lead's count before (`n`) and after (`value`), every role's target, and why.

    `recommended` is the value after bounds; `state` the track's memory with the window in it; `adopted` the lead's state
    after an external change. `frozen_counts`: nothing was judged, and the counts shown are those that stand.
    """

    track: Track
    n: int
    value: int
    targets: Mapping[RoleName, int]
    action: Action
    reason: Reason
    stages: tuple[Staged, ...]
    recommended: int
    state: TrackState
    adopted: RoleState | None = None
    frozen_counts: Mapping[RoleName, int] | None = None
