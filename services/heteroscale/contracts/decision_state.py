"""decision-state.v1: everything a decision worker must know of a service to go on, with the input offsets it includes."""

from __future__ import annotations

from heteroscale.contracts.commands import Command
from heteroscale.contracts.decisions import Action, Decision, Reason
from heteroscale.contracts.message import Message
from heteroscale.contracts.names import DecisionId, RoleName, ServiceName
from heteroscale.contracts.placements import PlacementStatus


class Cohort(Message, frozen=True, kw_only=True):
    """Instances that were commanded (or lost) at the same time and do not serve yet."""

    since_ms: int
    count: int


class RoleState(Message, frozen=True, kw_only=True):
    """One role as it is commanded. Its count in the law is `commanded + foreign`.

    `short_since_ms`: heard and silent instances are fewer than commanded since then. `fall_since_ms`: those that are heard
    are; `fall_silent`: some window since counted a silent one. `drift_since_ms`: the count left the command by itself.
    `seen_low` is the least that was observed, `seen_high` the most that ran, since the command last changed.
    """

    commanded: int
    draining: int = 0
    foreign: int = 0
    pending: list[Cohort] = []
    short_since_ms: int | None = None
    fall_since_ms: int | None = None
    fall_silent: bool = False
    drift_since_ms: int | None = None
    seen_low: int | None = None
    seen_high: int | None = None

    @property
    def wanted(self) -> int:
        """Replicas that are to serve, ours and others'."""
        return self.commanded + self.foreign


class CountChange(Message, frozen=True, kw_only=True):
    """The lead's count changed (in shadow mode: would have)."""

    at_ms: int
    before: int
    after: int


class Recommendation(Message, frozen=True, kw_only=True):
    """A value after bounds; equal neighbours are kept once, with the newest time."""

    at_ms: int
    n: int


class GuardStep(Message, frozen=True, kw_only=True):
    """The last step that a guard took: when, to what count, and the first window end at which all of it served."""

    at_ms: int
    n: int
    served_at_ms: int | None = None


class SoftPhase(Message, frozen=True, kw_only=True):
    """A soft scale-in under way. `unjudged_ms` is what windows without enough coverage add to `observe`."""

    since_ms: int
    observe_from_ms: int | None = None
    unjudged_ms: int = 0


class TrackState(Message, frozen=True, kw_only=True):
    """What the law remembers of one scalar: the ratio's lead, or a role outside the ratio."""

    changes: list[CountChange] = []
    recommendations: list[Recommendation] = []
    last_out_ms: int | None = None
    last_in_ms: int | None = None
    guard_step: GuardStep | None = None
    alarm_since_ms: int | None = None
    missing_since_ms: int | None = None
    soft: SoftPhase | None = None


class PlacedCounts(Message, frozen=True, kw_only=True):
    """A role's replicas in the newest Placement, by state."""

    reserved: int = 0
    starting: int = 0
    ready: int = 0
    draining: int = 0
    stopping: int = 0
    failed: int = 0

    @property
    def existing(self) -> int:
        """Neither failed nor stopping."""
        return self.reserved + self.starting + self.ready + self.draining

    @property
    def listed(self) -> int:
        """All of them."""
        return self.existing + self.stopping + self.failed

    @property
    def moving(self) -> bool:
        """Whether something starts, drains or stops."""
        return bool(self.reserved + self.starting + self.draining + self.stopping)


class PlacementView(Message, frozen=True, kw_only=True):
    """What the law keeps of the newest Placement."""

    gen: int
    seq: int
    at_ms: int
    revision: int
    command_id: DecisionId
    status: PlacementStatus
    roles: dict[RoleName, PlacedCounts]
    shortfall: dict[RoleName, int] = {}


class DryRunAnswer(Message, frozen=True, kw_only=True):
    """Whether the last recommendation could have been placed."""

    at_ms: int
    revision: int
    command_id: DecisionId
    status: PlacementStatus
    shortfall: dict[RoleName, int] = {}
    text: str = ""


class Counters(Message, frozen=True, kw_only=True):
    """Totals since the state began."""

    decisions: int = 0
    scale_outs: int = 0
    scale_ins: int = 0
    restores: int = 0
    guard_episodes: int = 0
    direction_changes: int = 0


class LawState(Message, frozen=True, kw_only=True):
    """What the law carries from window to window.

    `revision` is the highest ever used, dry runs included; `commanded_revision` and `command_id` are those of the last real
    command. `adopted_at_ms` null: nothing is known yet, the next window adopts what runs.
    """

    adopted_at_ms: int | None = None
    cold_until_ms: int | None = None
    window_end_ms: int = -1
    revision: int = 0
    commanded_revision: int = 0
    command_id: DecisionId | None = None
    affirmed_at_ms: int | None = None
    roles: dict[RoleName, RoleState] = {}
    tracks: dict[RoleName, TrackState] = {}
    placement: PlacementView | None = None
    relisted_after_ms: int | None = None
    dry_run: DryRunAnswer | None = None
    last_move: Action | None = None
    hold_reason: Reason | None = None
    hold_since_ms: int | None = None
    counters: Counters = Counters()


class DecisionState(Message, frozen=True, kw_only=True):
    """State after a decision. `inputs` maps `topic-partition` to the next offset that the state does not include.

    `command` is the last real command, `recommendation` the last dry-run command; each as it was published.
    """

    service: ServiceName
    inputs: dict[str, int]
    law: LawState
    decision: Decision | None = None
    command: Command | None = None
    recommendation: Command | None = None
