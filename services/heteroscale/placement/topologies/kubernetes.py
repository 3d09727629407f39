"""Nodes from Kubernetes: `kubectl get nodes -o json`, by the labels of topograph, of clouds, or of one's own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from heteroscale.contracts.fleet import FleetNode, NodeAt, NodeState
from heteroscale.placement.topologies.fabrics import DEFAULT_CLUSTER, Given
from heteroscale.placement.topologies.importers import Imported, checked

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
MAPPED: Final = (*LABELS, "gpu_type")
"""What a label may be named for."""


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


def from_nodes(document: object, given: Given) -> Imported:
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
            node = _node(item, int(text), given, problems)
            nodes += [node] if node is not None else []
    if not nodes and not problems:
        problems.append(f"lists no node with {GPU_COUNT} capacity")
    return checked(nodes, problems, stated=[node.node for node in nodes])


def _node(item: _KubernetesNode, gpus: int, given: Given, problems: list[str]) -> FleetNode | None:
    name, labels = item.metadata.name, item.metadata.labels or {}
    keys = {level: (*given.labels.get(level, ()), *usual) for level, usual in LABELS.items()}
    place = {level: next((labels[key] for key in tried if labels.get(key)), None) for level, tried in keys.items()}
    products = (*given.labels.get("gpu_type", ()), *GPU_PRODUCTS)
    gpu_type = next((labels[key] for key in products if labels.get(key)), given.gpu_type)
    s1, s2 = place["s1"], place["s2"]
    missing = [level for level in ("s1", "s2") if place[level] is None]
    problems += [
        f"{name}: has no label for {level}; label it with {keys[level][0]}, or name yours with --label {level}=KEY" for level in missing
    ]
    if gpu_type is None:
        problems.append(f"{name}: has no label for its GPU type; label it with {products[0]} or give --gpu-type")
    if s1 is None or s2 is None or gpu_type is None:
        return None
    at = NodeAt(cluster=given.cluster or place["cluster"] or DEFAULT_CLUSTER, s2=s2, s1=s1, s0=place["s0"])
    state = NodeState.CORDONED if item.spec is not None and item.spec.unschedulable else NodeState.READY
    return FleetNode(node=name, fleet=given.fleet, gpu_type=gpu_type, gpus=gpus, at=at, state=state)
