"""Placements under instance pseudonyms: a plan gives an instance the name it derives, the recording has the pseudonym of that name.

Pseudonyms keep the order of names, so the names that a replayed placement has and the recorded one lacks are, in order, those that the
recorded one has and the replayed one lacks. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.names import InstanceName
from heteroscale.contracts.placements import Placement
from heteroscale.placement.inventory.entries import FleetImage

Aliases = Mapping[InstanceName, InstanceName]
M = TypeVar("M", bound=msgspec.Struct)


def found(recorded: Placement, replayed: Placement) -> dict[InstanceName, InstanceName]:
    """Derived name → pseudonym of the instances that both placements have; empty where their numbers differ."""
    there, here = set(_names(recorded)), set(_names(replayed))
    derived, pseudonyms = sorted(here - there), sorted(there - here)
    return dict(zip(derived, pseudonyms, strict=True)) if len(derived) == len(pseudonyms) else {}


def _names(placement: Placement) -> Iterator[InstanceName]:
    yield from (one.id for group in placement.groups for one in group.instances)
    yield from (change.instance for change in placement.changes)


def placement(one: Placement, aliases: Aliases) -> Placement:
    """A placement under the pseudonyms, its lists in the order that those have."""
    if not aliases:
        return one
    other = _renamed(one, aliases)
    groups = [msgspec.structs.replace(group, instances=sorted(group.instances, key=lambda placed: placed.id)) for group in other.groups]
    return msgspec.structs.replace(other, groups=groups, changes=sorted(other.changes, key=lambda change: change.instance))


def image(one: FleetImage, aliases: Aliases) -> FleetImage:
    """An inventory under the pseudonyms."""
    return _renamed(one, aliases) if aliases else one


def _renamed(one: M, aliases: Aliases) -> M:
    """Every name, wherever it stands in the message."""
    pattern = re.compile("|".join(re.escape(name) for name in sorted(aliases, key=lambda name: (-len(name), name))).encode())
    text = pattern.sub(lambda hit: aliases[hit[0].decode()].encode(), codec.encode(one))
    return codec.decode(type(one), text)
