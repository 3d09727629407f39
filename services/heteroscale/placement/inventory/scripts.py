"""The scripts and the keys they touch, and how their arguments are laid out. The order here is the order in the Lua files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Broken
from heteroscale.contracts.names import FleetName, NodeName
from heteroscale.contracts.topics import DEFAULT_PREFIX
from heteroscale.placement.inventory.entries import NodeEntry, NodeRecord, node_text
from heteroscale.placement.inventory.gang import Gang, Outcome, Verdict
from heteroscale.placement.inventory.protocol import Build, NodeSync

Argument = str | bytes | int

APPLY: Final = "apply"
BUILD: Final = "build"
SYNC: Final = "sync"
READ: Final = "read"
PRELUDE: Final = "prelude"
NAMES: Final = (APPLY, BUILD, SYNC, READ)


class Keys(NamedTuple):
    """The keys of one fleet. They share a hash tag, so that a script may touch them all on a cluster."""

    meta: str
    node: str
    svc: str
    inst: str
    done: str
    out: str
    used: str
    fleet: str
    lease: str

    @classmethod
    def of(cls, fleet: FleetName, prefix: str = DEFAULT_PREFIX) -> Keys:
        """Names for a fleet: `{hs:FLEET}:…`, and `{hs:PREFIX/FLEET}:…` for topics under a prefix of their own."""
        tag = fleet if prefix == DEFAULT_PREFIX else f"{prefix}/{fleet}"
        return cls(*(f"{{hs:{tag}}}:{name}" for name in cls._fields))


@cache
def source(name: str) -> str:
    """The text of a script, with what all of them share before it."""
    folder = resources.files(__package__)
    return "\n".join(folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in (PRELUDE, name))


def digest_of(text: str) -> str:
    """How Redis names a script: sha1 of its text."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def apply_arguments(gang: Gang, keys: Keys) -> list[Argument]:
    """KEYS and ARGV of apply.lua."""
    command = gang.state.command
    arguments: list[Argument] = [keys.meta, keys.node, keys.svc, keys.inst, keys.done, keys.out, keys.used]
    arguments += [gang.id, gang.service, gang.gen, gang.fence, gang.seq, command.revision, command.at_ms, command.id, gang.cycle]
    arguments += [gang.at_ms, codec.encode(gang.state), gang.payload]
    arguments += _counted(sorted(gang.takes.items()))
    arguments += _counted(sorted(gang.adopts.items()))
    arguments += _counted(sorted(gang.frees.items()))
    arguments += _counted((instance,) for instance in sorted(gang.born))
    arguments += _counted((instance, codec.encode(entry)) for instance, entry in sorted(gang.puts.items()))
    arguments += _counted((instance,) for instance in gang.drops)
    return arguments


def build_arguments(build: Build, keys: Keys) -> list[Argument]:
    """KEYS and ARGV of build.lua."""
    image = build.image
    arguments: list[Argument] = [keys.meta, keys.node, keys.svc, keys.inst, keys.done, keys.out, keys.used, keys.fleet]
    arguments += [build.fence, "" if build.old_gen is None else build.old_gen, image.gen, image.cycle, image.now_ms]
    arguments += _counted(_node_rows(image.nodes))
    arguments += _counted((name, codec.encode(state)) for name, state in sorted(image.services.items()))
    arguments += _counted((name, codec.encode(entry)) for name, entry in sorted(image.instances.items()))
    arguments += _counted(build.placements)
    return arguments


def sync_arguments(sync: NodeSync, keys: Keys) -> list[Argument]:
    """KEYS and ARGV of sync.lua."""
    arguments: list[Argument] = [keys.meta, keys.node, keys.used, keys.fleet, sync.gen, sync.fence, sync.rev]
    arguments += _counted(_node_rows(sync.nodes))
    arguments += _counted((node,) for node in sync.gone)
    return arguments


def key_count(name: str) -> int:
    """How many of a script's arguments are keys."""
    return {APPLY: 7, BUILD: 8, SYNC: 4, READ: 6}[name]


def outcome(reply: Sequence[bytes]) -> Outcome:
    """What a script answered. Raises Broken for anything unknown."""
    try:
        verdict, rev, entry, detail = (bytes(part).decode() for part in reply)
        kind = Verdict(verdict)
    except (TypeError, ValueError) as error:
        raise Broken(f"inventory: a script answered {reply!r}") from error
    node = detail or None if kind is Verdict.CONFLICT else None
    return Outcome(verdict=kind, rev=int(rev), entry=entry, node=node, detail="" if kind is Verdict.CONFLICT else detail)


def _node_rows(nodes: Mapping[NodeName, NodeEntry]) -> Iterable[tuple[Argument, ...]]:
    for name, entry in sorted(nodes.items()):
        record = NodeRecord(record=entry.record, quarantine=entry.quarantine)
        yield name, node_text(entry.free, entry.standing, entry.revision), codec.encode(record), entry.used


def _counted(rows: Iterable[Sequence[Argument]]) -> list[Argument]:
    listed = list(rows)
    return [len(listed), *(cell for row in listed for cell in row)]
