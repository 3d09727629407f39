"""Nodes from Slurm's topology.conf and topology.yaml, trees and blocks. Pure.

What a leaf switch or a block holds is an s1, the switch above a leaf its s2. Blocks that make up one block of the second size
of `BlockSizes` share an s2; without a second size each is its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from heteroscale.contracts.fleet import FleetNode, NodeAt
from heteroscale.placement.topologies.fabrics import DEFAULT_CLUSTER, Given, empty_of, known, names_in
from heteroscale.placement.topologies.importers import Imported, checked

_SETTING: Final = re.compile(r"(\w+)=(\S*)")


class _Leaf(NamedTuple):
    """A switch or block with nodes; `place` is where it stands in the file."""

    place: str
    name: str
    hosts: str


class _Switch(msgspec.Struct):
    switch: str
    children: str | None = None
    nodes: str | None = None


class _Tree(msgspec.Struct):
    switches: list[_Switch]


class _Block(msgspec.Struct):
    block: str
    nodes: str | None = None


class _Blocks(msgspec.Struct):
    blocks: list[_Block]
    block_sizes: list[int] = []


class _Topology(msgspec.Struct):
    topology: str
    cluster_default: bool = False
    flat: bool = False
    tree: _Tree | None = None
    block: _Blocks | None = None


def from_conf(text: str, given: Given) -> Imported:
    """topology.conf: `SwitchName=… Nodes=…|Switches=…` (tree) or `BlockName=… Nodes=…` and `BlockSizes=…` (block)."""
    problems: list[str] = []
    above: dict[str, str] = {}
    switches: list[_Leaf] = []
    blocks: list[_Leaf] = []
    sizes: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        settings = {key.lower(): value for key, value in _SETTING.findall(line.partition("#")[0])}
        place = f"line {number}"
        sizes = [int(size) for size in settings.get("blocksizes", "").split(",") if size.isdigit()] or sizes
        for key, leaves in (("switchname", switches), ("blockname", blocks)):
            if key in settings and "nodes" in settings:
                leaves.append(_Leaf(place, settings[key], settings["nodes"]))
        if "switchname" in settings and "switches" in settings:
            above |= dict.fromkeys(names_in([settings["switches"]], place, problems), settings["switchname"])
    if not switches and not blocks:
        problems.append("has no SwitchName=… Nodes=… and no BlockName=… Nodes=… line")
    return _imported([*switches, *blocks], above | _groups(blocks, sizes), given, problems)


def from_yaml(document: object, given: Given) -> Imported:
    """topology.yaml: a list of topologies; the one with `cluster_default: true` (else the first that is not flat) is read."""
    try:
        topologies = msgspec.convert(document, list[_Topology], strict=False)
    except msgspec.ValidationError as error:
        return Imported([], [f"is not a Slurm topology.yaml: {error}"])
    shaped = [one for one in topologies if one.tree is not None or one.block is not None]
    if not shaped:
        return Imported([], ["has no topology with a tree or blocks; a flat one says nothing of places"])
    chosen = next((one for one in shaped if one.cluster_default), shaped[0])
    problems: list[str] = []
    above: dict[str, str] = {}
    leaves: list[_Leaf] = []
    for switch in chosen.tree.switches if chosen.tree is not None else ():
        place = f"{chosen.topology}, switch {switch.switch}"
        if switch.nodes is not None:
            leaves.append(_Leaf(place, switch.switch, switch.nodes))
        if switch.children is not None:
            above |= dict.fromkeys(names_in([switch.children], place, problems), switch.switch)
    if chosen.block is not None:
        blocks = [
            _Leaf(f"{chosen.topology}, block {one.block}", one.block, one.nodes) for one in chosen.block.blocks if one.nodes is not None
        ]
        leaves += blocks
        above |= _groups(blocks, chosen.block.block_sizes)
    found = _imported(leaves, above, given, problems)
    left_out = [one.topology for one in topologies if one is not chosen]
    note = [f"{chosen.topology} was read; {', '.join(left_out)} not: a fleet has one topology"] if left_out else []
    return msgspec.structs.replace(found, warnings=[*found.warnings, *note])


def _groups(blocks: list[_Leaf], sizes: list[int]) -> dict[str, str]:
    """Blocks in the order of the file, so many together as the second block size says, under the name of the first."""
    if len(sizes) < 2 or sizes[0] < 1 or sizes[1] <= sizes[0]:
        return {}
    together = sizes[1] // sizes[0]
    return {block.name: blocks[at - at % together].name for at, block in enumerate(blocks)}


def _imported(leaves: Sequence[_Leaf], above: dict[str, str], given: Given, problems: list[str]) -> Imported:
    nodes: list[FleetNode] = []
    filled: set[str] = set()
    for leaf in leaves:
        at = NodeAt(cluster=given.cluster or DEFAULT_CLUSTER, s2=above.get(leaf.name, leaf.name), s1=leaf.name)
        hosts = names_in([leaf.hosts], leaf.place, problems)
        filled |= {leaf.name} if hosts else set()
        nodes += known(hosts, at, given, problems)
    return checked(nodes, problems, empty=empty_of({leaf.name for leaf in leaves}, filled, above))
