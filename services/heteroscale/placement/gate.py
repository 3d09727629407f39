"""The ready-ratio gate: which ready instances of a group may be routed to. Pure.

While the ready counts of a group stray from its planned ratio by more than the tolerance, the excess of a role is held back,
newest first. It is withdrawn from discovery, not stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from heteroscale.contracts.names import InstanceName, RoleName
from heteroscale.contracts.placements import InstanceState
from heteroscale.placement.inventory.entries import InstanceEntry

EPSILON: Final = 1e-9
PLANNED: Final = frozenset({InstanceState.RESERVED, InstanceState.STARTING, InstanceState.READY})


class _Role(msgspec.Struct, kw_only=True):
    """One role of the ratio in one group, in serving units (a replica of a role with parts is one unit)."""

    planned: int
    ready: list[list[InstanceName]]


def routable(group: Mapping[InstanceName, InstanceEntry], ratio: Iterable[RoleName], tolerance: float) -> frozenset[InstanceName]:
    """The instances of one group that discovery may show.

    `tolerance` is a fraction: 0.25 lets 2.5 decode instances be routed per ready prefill at a planned 1:2. A role keeps at
    least one. Nothing that is routed is withdrawn while the short role is waiting for a replacement of a failed peer.
    """
    units = {role: _units(group, role) for role in sorted({entry.role for entry in group.values()})}
    gated = sorted(role for role in set(ratio) if role in units and units[role].planned > 0)
    shares = {role: len(units[role].ready) / units[role].planned for role in gated}
    shown: set[InstanceName] = set()
    for role, here in units.items():
        others = [shares[other] for other in gated if other != role]
        if role not in gated or not others:
            shown.update(name for unit in here.ready for name in unit)
            continue
        short = min(gated, key=lambda other: (shares[other], other))
        allowed = max(1, math.floor(here.planned * min(others) * (1 + tolerance) + EPSILON))
        carriers = _replacing(group, short)
        for position, unit in enumerate(here.ready):
            if position < allowed or (carriers and all(group[name].routable for name in unit)):
                shown.update(unit)
    return frozenset(shown)


def _units(group: Mapping[InstanceName, InstanceEntry], role: RoleName) -> _Role:
    """Ready units, the oldest first; a unit is ready when all of its parts are."""
    members: dict[tuple[str, int], list[InstanceName]] = {}
    for name, entry in sorted(group.items()):
        if entry.role == role and entry.state in PLANNED:
            key = (name, 0) if entry.replica is None else ("", entry.replica)
            members.setdefault(key, []).append(name)
    ready = [names for names in members.values() if all(group[name].state is InstanceState.READY for name in names)]
    ready.sort(key=lambda names: (max(group[name].since_ms for name in names), names))
    return _Role(planned=len(members), ready=ready)


def _replacing(group: Mapping[InstanceName, InstanceEntry], role: RoleName) -> bool:
    """Whether the role waits for a replacement of a failed peer."""
    return any(
        entry.role == role and entry.replacement and entry.state in PLANNED and entry.state is not InstanceState.READY
        for entry in group.values()
    )
