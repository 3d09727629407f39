"""The fleet a simulation runs on: FLEET.yaml documents, and the demo's fabric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import msgspec
import yaml

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str, place: str) -> list[FleetNode]:
    """Nodes of a FLEET.yaml, sorted by name. Raises Rejected with the node at fault."""
    try:
        document: Any = yaml.load(text, _Loader)  # noqa: S506 - it is a safe one, in C where there is one
    except yaml.YAMLError as error:
        raise Rejected("yaml", str(error), place) from error
    except RecursionError as error:
        raise Rejected("yaml", "nested too deeply", place) from error
    if not isinstance(document, Mapping) or not isinstance(document.get("nodes"), Sequence):
        raise Rejected("fleet", "a fleet file has `fleet: NAME` and `nodes: [...]`", place)
    fleet = str(document.get("fleet", "default"))
    nodes = [_node(entry, fleet, f"{place}: nodes[{index}]") for index, entry in enumerate(document["nodes"])]
    names = [node.node for node in nodes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Rejected("fleet", f"node {twice[0]} stands there twice", place)
    return sorted(nodes, key=lambda node: node.node)


def _node(entry: object, fleet: str, place: str) -> FleetNode:
    if not isinstance(entry, Mapping):
        raise Rejected("fleet", "a node is a mapping of node, gpu_type, gpus and at", place)
    try:
        return codec.convert(FleetNode, {"fleet": fleet, **entry})
    except Rejected as error:
        raise Rejected(error.code, error.message, place) from error


def in_domain(nodes: Sequence[FleetNode], s1: str) -> list[str]:
    """Names of the nodes of an s1, given as `s1`, `s2/s1` or `cluster/s2/s1`."""
    path = s1.split("/")
    return [node.node for node in nodes if [node.at.cluster, node.at.s2, node.at.s1][-len(path) :] == path]


def demo_text(name: str) -> str:
    """A file of the demo: `fleet.yaml` or a spec."""
    return resources.files("heteroscale.simulator").joinpath(f"data/demo/{name}").read_text("utf-8")


def restated(node: FleetNode, **changes: object) -> FleetNode:
    """The node with some fields changed."""
    changed: FleetNode = msgspec.structs.replace(node, **changes)
    return changed
