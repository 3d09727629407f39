"""What does not agree: the inventory, placements.v1 and the last words of instances. Pure.

Nothing here changes anything. What a finding leads to, and that nothing is freed on a single observation, is the reconciler's affair.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping

import msgspec

from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.names import InstanceName, ServiceName
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.placement import words
from heteroscale.placement.inventory.entries import FleetImage, InstanceEntry
from heteroscale.placement.state import FleetState


class Kind(enum.StrEnum):
    """In which way two of the three disagree."""

    BEHIND = "behind"
    AHEAD = "ahead"
    DIFFERS = "differs"
    MOVED = "moved"
    UNHEARD = "unheard"
    GHOST = "ghost"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One disagreement. `subject` is a service (behind, ahead, differs, moved) or an instance (unheard, ghost)."""

    kind: Kind
    subject: str


def compare(
    now: FleetState,
    newest: Mapping[ServiceName, Placement],
    heard: Mapping[InstanceName, Actuation],
    contested: Collection[ServiceName] = (),
    elsewhere: Collection[ServiceName] = (),
) -> list[Finding]:
    """All disagreements, sorted by kind and subject.

    behind, ahead: the log's newest record of a service is older or newer than the inventory. differs: equal (gen, seq), other
    groups, here or (`contested`) on the log itself. moved: it holds nothing here, and (`elsewhere`) its newest record is another
    fleet's. unheard: listed as running although its last word was that no process is
    left. ghost: the reverse.
    """
    moved = {name for name in elsewhere if name in now.services and not now.services[name].instances}
    found = [one for one in _against_log(now, newest, contested) if one.subject not in moved]
    found += [Finding(kind=Kind.MOVED, subject=name) for name in moved]
    found += _unheard(now, heard)
    listed = {name for known in now.services.values() for name in known.instances}
    listed |= {one.id for placement in newest.values() for group in placement.groups for one in group.instances}
    found += [Finding(kind=Kind.GHOST, subject=name) for name in words.ghosts(heard, listed)]
    return sorted(found, key=lambda one: (one.kind, one.subject))


def same(now: FleetState, image: FleetImage) -> bool:
    """Whether the worker's idea of the fleet is what the inventory holds."""
    instances = {name: one for known in now.services.values() for name, one in known.instances.items()}
    entries = {name: known.entry for name, known in now.services.items()}
    here = (now.gen, now.rev, now.nodes, entries, instances)
    return here == (image.gen, image.rev, image.nodes, image.services, image.instances)


def _against_log(now: FleetState, newest: Mapping[ServiceName, Placement], contested: Collection[ServiceName]) -> Iterable[Finding]:
    for service in sorted(now.services.keys() | newest.keys()):
        known, placement = now.services.get(service), newest.get(service)
        here = (now.gen, known.entry.seq) if known is not None else (0, 0)
        there = (placement.gen, placement.seq or 0) if placement is not None else (0, 0)
        if here > there:
            yield Finding(kind=Kind.BEHIND, subject=service)
        elif here < there:
            yield Finding(kind=Kind.AHEAD, subject=service)
        elif known is not None and placement is not None and (service in contested or list(known.groups) != placement.groups):
            yield Finding(kind=Kind.DIFFERS, subject=service)


def _unheard(now: FleetState, heard: Mapping[InstanceName, Actuation]) -> Iterable[Finding]:
    for known in now.services.values():
        for name, entry in known.instances.items():
            word = heard.get(name)
            if word is not None and word.kind in words.ENDED and word.at_ms >= entry.reserved_ms and _waits_for_word(entry):
                yield Finding(kind=Kind.UNHEARD, subject=name)


def _waits_for_word(entry: InstanceEntry) -> bool:
    """Whether an end is still to be acknowledged."""
    return entry.state is not InstanceState.FAILED or entry.cause is not None
