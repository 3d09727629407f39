"""Which counts move together: one track for the roles of the ratio, and one for each role outside it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import GuardSpec, Metric, RoleSpec, ServiceSpec, SignalSpec
from heteroscale.decision.law import ratio as ratios


class Track(msgspec.Struct, frozen=True):
    """Roles that follow one scalar n, the count of `lead`.

    `ratio` is in lowest terms, so it is also the smallest set that serves on its own; a role outside the ratio map is alone.
    """

    lead: RoleName
    ratio: Mapping[RoleName, int]
    signals: tuple[SignalSpec, ...]
    guards: tuple[GuardSpec, ...]
    roles: Mapping[RoleName, RoleSpec]

    def counts(self, n: int) -> dict[RoleName, int]:
        """Replicas of each role of the track at `n`."""
        return ratios.derive(n, self.ratio, self.lead)


def lead_of(spec: ServiceSpec) -> RoleName:
    """The role of the first signal whose role is in the ratio; without one, the role with the largest share (ties by name)."""
    for signal in spec.signals:
        if signal.role in spec.ratio:
            return signal.role
    return min(spec.ratio, key=lambda role: (-spec.ratio[role], role))


def tracks_of(spec: ServiceSpec) -> tuple[Track, ...]:
    """The ratio's track first, then roles outside it by name."""
    lead = lead_of(spec)
    shares = _lowest_terms(spec.ratio)
    outside = sorted(set(spec.roles) - set(shares))
    return (_track(spec, lead, shares), *(_track(spec, role, {role: 1}) for role in outside))


def _track(spec: ServiceSpec, lead: RoleName, shares: Mapping[RoleName, int]) -> Track:
    """A guard without a role judges the worst role, and acts on the ratio."""
    is_ratio = lead in spec.ratio
    return Track(
        lead=lead,
        ratio=shares,
        signals=tuple(s for s in spec.signals if s.metric is not Metric.NONE and s.role in shares),
        guards=tuple(g for g in spec.guards if g.role in shares or (is_ratio and g.role not in spec.roles)),
        roles={role: spec.roles[role] for role in sorted(shares) if role in spec.roles},
    )


def _lowest_terms(shares: Mapping[RoleName, int]) -> dict[RoleName, int]:
    divisor = math.gcd(*shares.values())
    return {role: share // divisor for role, share in sorted(shares.items())}
