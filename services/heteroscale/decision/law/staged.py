"""What the stages share: the facts of one window for one track, and the form of a stage's answer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from heteroscale.contracts.decision_state import PlacementView, TrackState
from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.names import RoleName
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import Mode, Schedule, ServiceSpec
from heteroscale.decision.law.tracks import Track


class RoleFacts(msgspec.Struct, frozen=True):
    """A role as this window finds it. `serving` leaves out engines that drain but still call themselves serving."""

    wanted: int
    draining: int
    foreign: int
    serving: int
    silent: int
    pending: int


class Bounds(msgspec.Struct, frozen=True):
    """The feasible set of a track, an interval of n, and what sets each end (in words)."""

    low: int
    high: int
    low_by: str
    high_by: str

    def clamp(self, n: int) -> int:
        """The nearest feasible count."""
        return max(self.low, min(self.high, n))


class Facts(msgspec.Struct, frozen=True):
    """All that the stages may look at. `n` is the lead's count before this decision.

    `placement` is the newest one if it speaks of the commanded revision, else null: an older one says nothing.
    """

    spec: ServiceSpec
    track: Track
    window: SignalWindow
    now_ms: int
    mode: Mode
    n: int
    roles: Mapping[RoleName, RoleFacts]
    schedule: Schedule | None
    bounds: Bounds
    placement: PlacementView | None
    state: TrackState

    @property
    def lead(self) -> RoleFacts:
        """The lead's facts."""
        return self.roles[self.track.lead]


class Staged(msgspec.Struct, frozen=True):
    """The lead's count after a stage; `reason` null if the stage changed nothing and turned no wish away."""

    value: int
    reason: Reason | None = None
    detail: str = ""
