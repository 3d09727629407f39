"""Nodes from fabric descriptions: topograph models, and what Slurm's files and Kubernetes labels share with them. Pure.

What a leaf switch (or a Slurm block) holds is an s1, what shares the switch above it an s2. These tools often know no GPU type
or count; `Given` fills in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from heteroscale.contracts.fleet import FleetNode, NodeAt
from heteroscale.placement.topologies.importers import Imported, checked

DEFAULT_CLUSTER: Final = "default"
_RANGE: Final = re.compile(r"(?P<head>[^\[\]]*)\[(?P<body>[^\[\]]+)\](?P<tail>.*)")


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the description does not say. `labels`: Kubernetes labels for a level or `gpu_type`, tried before the usual ones."""

    fleet: str
    cluster: str | None = None
    gpu_type: str | None = None
    gpus: int | None = None
    labels: Mapping[str, tuple[str, ...]] = {}


HOSTS_MAX: Final = 1_000_000
"""Hosts in one range of a host list: more is a slip of the pen, and would fill the memory."""


def expand(text: str) -> list[str]:
    """A host list as Slurm writes it: `n[01-03,7]` is n01, n02, n03, n7. Raises ValueError."""
    found: list[str] = []
    for part in _split(text):
        match = _RANGE.fullmatch(part)
        if match is None:
            if "[" in part or "]" in part:
                raise ValueError(f"{part!r} is not a host list; write it such as node[01-16]")
            found.append(part)
            continue
        for piece in match["body"].split(","):
            first, dash, last = piece.strip().partition("-")
            if not first.isdigit() or (dash and (not last.isdigit() or int(last) < int(first))):
                raise ValueError(f"{part!r} is not a host list; write it such as node[01-16]")
            if dash and int(last) - int(first) >= HOSTS_MAX:
                raise ValueError(f"{part!r} is more than {HOSTS_MAX} hosts; a fleet has fewer nodes")
            numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)] if dash else [first]
            found += [name for number in numbers for name in expand(f"{match['head']}{number}{match['tail']}")]
    return found


def _split(text: str) -> Iterator[str]:
    """Parts between commas that stand outside brackets."""
    depth = start = 0
    for at, sign in enumerate(text):
        depth += (sign == "[") - (sign == "]")
        if sign == "," and depth == 0:
            yield text[start:at].strip()
            start = at + 1
    if text[start:].strip():
        yield text[start:].strip()


class _Switch(msgspec.Struct):
    switches: list[str] = []


class _Block(msgspec.Struct):
    nodes: list[str]
    switch: str | None = None
    name: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Model(msgspec.Struct):
    blocks: list[_Block]
    switches: dict[str, _Switch | None] | None = None


def from_topograph(document: object, given: Given) -> Imported:
    """A topograph model: `switches: {S: {switches: […]}}` and `blocks: [{switch, nodes: […], annotations}]`."""
    try:
        model = msgspec.convert(document, _Model, strict=False)
    except msgspec.ValidationError as error:
        return Imported([], [f"is not a topograph model: {error}"])
    problems: list[str] = []
    above = {
        name: parent
        for parent, switch in sorted((model.switches or {}).items())
        for name in names_in(switch.switches if switch else (), f"switches.{parent}", problems)
    }
    nodes: list[FleetNode] = []
    leaves: set[str] = set()
    filled: set[str] = set()
    for index, block in enumerate(model.blocks):
        leaf = block.switch or block.name or f"block-{index}"
        labels = {**(block.labels or {}), **(block.annotations or {})}
        s0 = next((value for key, value in sorted(labels.items()) if "accelerator" in key), None)
        at = NodeAt(cluster=given.cluster or DEFAULT_CLUSTER, s2=above.get(leaf, leaf), s1=leaf, s0=s0)
        nodes += known(names_in(block.nodes, f"blocks[{index}]", problems), at, given, problems)
        leaves.add(leaf)
        filled |= {leaf} if block.nodes else set()
    return checked(nodes, problems, empty=empty_of(leaves, filled, above))


def empty_of(leaves: Collection[str], filled: Collection[str], above: Mapping[str, str]) -> set[str]:
    """Leaves that hold nothing, and switches under another one (`above`: child → parent) that neither hold nor join anything."""
    joining = set(above.values()).difference(leaves)  # blocks are grouped under the name of one of them
    return {*leaves, *above}.difference(filled, joining)


def names_in(parts: Iterable[object], place: str, problems: list[str]) -> list[str]:
    """The names in host lists; what is none is a problem at the place."""
    names: list[str] = []
    for part in parts:
        try:
            names += expand(str(part))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    return names


def known(names: Iterable[str], at: NodeAt, given: Given, problems: list[str]) -> list[FleetNode]:
    """Nodes at a place, where the GPU type and count are given; otherwise one problem for all."""
    if given.gpu_type is None or given.gpus is None:
        text = "this format says no GPU type and count; give --gpu-type H20 --gpus 8"
        if text not in problems:
            problems.append(text)
        return []
    return [FleetNode(node=name, fleet=given.fleet, gpu_type=given.gpu_type, gpus=given.gpus, at=at) for name in names]
