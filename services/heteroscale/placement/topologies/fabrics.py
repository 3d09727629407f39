"""Nodes from fabric descriptions of other tools: topograph models, Kubernetes node labels, Slurm's topology.conf. Pure.

What a leaf switch (or a Slurm block) holds is an s1, what shares the switch above it an s2. These tools often know no GPU type
or count; `Given` fills in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.placement.topologies.importers import Imported, checked

DEFAULT_CLUSTER: Final = "default"
GPU_COUNT: Final = "nvidia.com/gpu"
GPU_PRODUCTS: Final = ("nvidia.com/gpu.product", "gpu.nvidia.com/model", "cloud.google.com/gke-accelerator")
LABELS: Final[Mapping[str, tuple[str, ...]]] = {  # newest first: topograph has named them anew twice
    "s0": (
        "accelerator.topograph.run/domain",
        "network.topology.nvidia.com/accelerator",
        "network.topology.kubernetes.io/accelerator",
        "nvidia.com/gpu.clique",
    ),
    "s1": (
        "fabric.topograph.run/tier-0",
        "network.topology.nvidia.com/leaf",
        "network.topology.nvidia.com/block",
        "network.topology.kubernetes.io/block",
    ),
    "s2": (
        "fabric.topograph.run/tier-1",
        "network.topology.nvidia.com/spine",
        "network.topology.kubernetes.io/spine",
    ),
    "cluster": (
        "fabric.topograph.run/tier-2",
        "network.topology.nvidia.com/core",
        "network.topology.nvidia.com/datacenter",
        "network.topology.kubernetes.io/datacenter",
    ),
}
_RANGE: Final = re.compile(r"(?P<head>[^\[\]]*)\[(?P<body>[^\[\]]+)\](?P<tail>.*)")
_SETTING: Final = re.compile(r"(\w+)=(\S+)")


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the description does not say."""

    fleet: str
    cluster: str | None = None
    gpu_type: str | None = None
    gpus: int | None = None


def expand(text: str) -> list[str]:
    """A host list as Slurm writes it: `n[01-03,7]` is n01, n02, n03, n7. Raises ValueError."""
    found: list[str] = []
    for part in _split(text):
        match = _RANGE.fullmatch(part)
        if match is None:
            found.append(part)
            continue
        for piece in match["body"].split(","):
            first, dash, last = piece.strip().partition("-")
            if not first.isdigit() or (dash and (not last.isdigit() or int(last) < int(first))):
                raise ValueError(f"{part!r} is not a host list; write it such as node[01-16]")
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


class _Metadata(msgspec.Struct):
    name: str
    labels: dict[str, str] | None = None


class _Capacity(msgspec.Struct):
    capacity: dict[str, str] | None = None


class _Standing(msgspec.Struct):
    unschedulable: bool = False


class _KubernetesNode(msgspec.Struct):
    metadata: _Metadata
    status: _Capacity | None = None
    spec: _Standing | None = None


class _KubernetesList(msgspec.Struct):
    items: list[_KubernetesNode]


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
        for name in _names(switch.switches if switch else (), f"switches.{parent}", problems)
    }
    nodes: list[FleetNode] = []
    for index, block in enumerate(model.blocks):
        leaf = block.switch or block.name or f"block-{index}"
        labels = {**(block.labels or {}), **(block.annotations or {})}
        s0 = next((value for key, value in sorted(labels.items()) if "accelerator" in key), None)
        at = NodeAt(cluster=given.cluster or DEFAULT_CLUSTER, s2=above.get(leaf, leaf), s1=leaf, s0=s0)
        nodes += _known(_names(block.nodes, f"blocks[{index}]", problems), at, given, problems)
    return checked(nodes, problems)


def from_slurm(text: str, given: Given) -> Imported:
    """Slurm's topology.conf: `SwitchName=… Nodes=…|Switches=…` (tree) or `BlockName=… Nodes=…` (block)."""
    problems: list[str] = []
    above: dict[str, str] = {}
    leaves: list[tuple[int, str, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        settings = {key.lower(): value for key, value in _SETTING.findall(line.partition("#")[0])}
        name = settings.get("switchname") or settings.get("blockname")
        if name is None:
            continue
        if "nodes" in settings:
            leaves.append((number, name, settings["nodes"]))
        for child in _names([settings["switches"]], f"line {number}", problems) if "switches" in settings else ():
            above[child] = name
    nodes: list[FleetNode] = []
    for number, leaf, hosts in leaves:
        at = NodeAt(cluster=given.cluster or DEFAULT_CLUSTER, s2=above.get(leaf, leaf), s1=leaf)
        nodes += _known(_names([hosts], f"line {number}", problems), at, given, problems)
    if not leaves:
        problems.append("has no SwitchName=… Nodes=… and no BlockName=… Nodes=… line")
    return checked(nodes, problems)


def from_kubernetes(document: object, given: Given) -> Imported:
    """`kubectl get nodes -o json|yaml`: topology and GPU labels; nodes without GPUs are left out, unschedulable ones cordoned."""
    try:
        whole = document if isinstance(document, dict) and "items" in document else {"items": [document]}
        items = msgspec.convert(whole, _KubernetesList, strict=False).items
    except msgspec.ValidationError as error:
        return Imported([], [f"is not a list of Kubernetes nodes: {error}"])
    problems: list[str] = []
    nodes: list[FleetNode] = []
    for item in items:
        text = ((item.status.capacity if item.status else None) or {}).get(GPU_COUNT, str(given.gpus or 0))
        if not text.isdigit():
            problems.append(f"{item.metadata.name}: {GPU_COUNT} capacity {text!r} is not a whole number")
        elif int(text) > 0:
            node = _from_kubernetes(item, int(text), given, problems)
            nodes += [node] if node is not None else []
    if not nodes and not problems:
        problems.append(f"lists no node with {GPU_COUNT} capacity")
    return checked(nodes, problems)


def _from_kubernetes(item: _KubernetesNode, gpus: int, given: Given, problems: list[str]) -> FleetNode | None:
    name, labels = item.metadata.name, item.metadata.labels or {}
    place = {level: next((labels[key] for key in keys if labels.get(key)), None) for level, keys in LABELS.items()}
    gpu_type = next((labels[key] for key in GPU_PRODUCTS if labels.get(key)), given.gpu_type)
    s1, s2 = place["s1"], place["s2"]
    missing = [level for level in ("s1", "s2") if place[level] is None]
    problems += [f"{name}: has no label for {level}; label it with {LABELS[level][0]}" for level in missing]
    if gpu_type is None:
        problems.append(f"{name}: has no label for its GPU type; label it with {GPU_PRODUCTS[0]} or give --gpu-type")
    if s1 is None or s2 is None or gpu_type is None:
        return None
    at = NodeAt(cluster=given.cluster or place["cluster"] or DEFAULT_CLUSTER, s2=s2, s1=s1, s0=place["s0"])
    state = NodeState.CORDONED if item.spec is not None and item.spec.unschedulable else NodeState.READY
    return FleetNode(node=name, fleet=given.fleet, gpu_type=gpu_type, gpus=gpus, at=at, state=state)


def _names(parts: Iterable[object], place: str, problems: list[str]) -> list[str]:
    names: list[str] = []
    for part in parts:
        try:
            names += expand(str(part))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    return names


def _known(names: Iterable[str], at: NodeAt, given: Given, problems: list[str]) -> list[FleetNode]:
    """Nodes at a place, where the GPU type and count are given; otherwise one problem for all."""
    if given.gpu_type is None or given.gpus is None:
        text = "this format says no GPU type and count; give --gpu-type H20 --gpus 8"
        if text not in problems:
            problems.append(text)
        return []
    return [FleetNode(node=name, fleet=given.fleet, gpu_type=given.gpu_type, gpus=given.gpus, at=at) for name in names]
