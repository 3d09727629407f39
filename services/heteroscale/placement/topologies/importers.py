"""Nodes from documents that people have: plain YAML (the FLEET.yaml of `plan`) and CSV. Pure; says everything that is wrong.

Fabric descriptions of other tools are read in `fabrics`, `kubernetes` and `slurm`.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.names import FleetName, NodeName

NODE_KEYS: Final = ("node", "fleet", "gpu_type", "gpus", "used", "at", "state", "observed_at_ms")
CSV_COLUMNS: Final = ("node", "gpu_type", "gpus", "cluster", "s2", "s1")
CSV_OPTIONAL: Final = ("s0", "state", "used", "fleet")
PATH: Final = ("cluster", "s2", "s1")
GPUS_MAX: Final = 1_024
"""GPUs of one node: far above what is built, far below what the planner's arrays hold."""
CROWDED_SHARE: Final = 0.5  # of all nodes under one s1, from CROWDED_NODES on: most likely a misread fabric
CROWDED_NODES: Final = 16
NAMED_MAX: Final = 5  # of what one warning is about


class Imported(msgspec.Struct, frozen=True):
    """Nodes in the order of the source, what is wrong (nothing is to be written then), and what looks odd.

    `stateless`: nodes of which the source says no state, so that a cordoned one stays cordoned.
    """

    nodes: list[FleetNode]
    problems: list[str] = []
    warnings: list[str] = []
    stateless: frozenset[NodeName] = frozenset()


def from_document(document: object, fleet: FleetName | None = None) -> Imported:
    """`{fleet, nodes: [{node, gpu_type, gpus, used, at: {cluster, s2, s1, s0?}, state}]}`; `fleet` replaces the document's."""
    if not isinstance(document, dict) or not isinstance(document.get("nodes"), list):
        return Imported([], ["is not a fleet; write fleet: default and nodes: [{node: a1-1, gpu_type: H20, gpus: 8, at: {…}}]"])
    problems: list[str] = []
    nodes: list[FleetNode] = []
    name = fleet or document.get("fleet") or "default"
    for index, entry in enumerate(document["nodes"]):
        place = f"nodes[{index}]"
        if not isinstance(entry, dict):
            problems.append(
                f"{place}: {entry!r} is not a mapping; write {{node: a1-1, gpu_type: H20, gpus: 8, at: {{cluster: c1, s2: A, s1: a1}}}}"
            )
            continue
        problems += [f"{place}.{key}: unknown key; {_hint(str(key), NODE_KEYS)}" for key in entry if key not in NODE_KEYS]
        try:
            nodes.append(codec.convert(FleetNode, {"fleet": name, **entry}))
        except Rejected as error:
            problems.append(f"{place}: {_words(error.message)}")
    stated = {str(entry.get("node")) for entry in document["nodes"] if isinstance(entry, dict) and "state" in entry}
    return checked(nodes, problems, stated=stated)


def from_csv(text: str, fleet: FleetName | None = None) -> Imported:
    """A header with node, gpu_type, gpus, cluster, s2, s1 and, if wanted, s0, state, used, fleet; then a line a node."""
    rows = csv.DictReader(io.StringIO(text))
    header = [column.strip() for column in rows.fieldnames or []]
    missing = [column for column in CSV_COLUMNS if column not in header]
    strange = [column for column in header if column not in (*CSV_COLUMNS, *CSV_OPTIONAL)]
    problems = [f"line 1: no column {column}; write {','.join(CSV_COLUMNS)}" for column in missing]
    problems += [f"line 1: unknown column {column!r}; {_hint(column, (*CSV_COLUMNS, *CSV_OPTIONAL))}" for column in strange]
    nodes: list[FleetNode] = []
    stated: set[NodeName] = set()
    for row in rows if not problems else ():
        cells = {key.strip(): (value or "").strip() for key, value in row.items() if isinstance(key, str) and isinstance(value, str)}
        try:
            nodes.append(_from_cells(cells, fleet))
            stated |= {nodes[-1].node} if cells.get("state") else set()
        except Rejected as error:
            problems.append(f"line {rows.line_num}: {_words(error.message)}")
        except ValueError as error:
            problems.append(f"line {rows.line_num}: {error}")
    return checked(nodes, problems, stated=stated)


def _from_cells(cells: Mapping[str, str], fleet: FleetName | None) -> FleetNode:
    numbers: dict[str, int] = {}
    for key in ("gpus", "used"):
        text = cells.get(key, "")
        if text:
            if not text.isdigit():
                raise ValueError(f"{key}: {text!r} is not a whole number; write one such as 8")
            numbers[key] = int(text)
    empty = [key for key in CSV_COLUMNS if not cells.get(key)]
    if empty:
        raise ValueError(f"{empty[0]} is empty; write it")
    at = {level: cells[level] for level in ("cluster", "s2", "s1", "s0") if cells.get(level)}
    document: dict[str, Any] = {"node": cells["node"], "gpu_type": cells["gpu_type"], "at": at, **numbers}
    document["fleet"] = fleet or cells.get("fleet") or "default"
    if cells.get("state"):
        document["state"] = cells["state"]
    return codec.convert(FleetNode, document)


def checked(
    nodes: Sequence[FleetNode], problems: Iterable[str] = (), *, stated: Collection[NodeName] = (), empty: Iterable[str] = ()
) -> Imported:
    """The nodes with what makes no sense about them, and what looks odd.

    `stated`: nodes of which the source says the state. `empty`: switches and blocks that hold no node.
    """
    found = list(problems)
    counts = Counter((node.fleet, node.node) for node in nodes)
    found += [f"{node}: is listed {count} times; keep one" for (_, node), count in sorted(counts.items()) if count > 1]
    for node in nodes:
        if not node.node.strip() or "/" in node.node or any(sign.isspace() for sign in node.node):
            found.append(f"{node.node!r}: is not a node name; write one without spaces and slashes")
        blank = [
            key for key, text in (("gpu_type", node.gpu_type), *((level, getattr(node.at, level)) for level in PATH)) if not text.strip()
        ]
        if blank:
            found.append(f"{node.node}: {blank[0]} is empty; write it")
        if node.gpus > GPUS_MAX:
            found.append(f"{node.node}: gpus {node.gpus} is more than any node has; write the GPUs of one node")
        if node.gpus < 1:
            found.append(f"{node.node}: gpus {node.gpus} is not possible; write 1 or more, or leave the node out")
        if not 0 <= node.used <= max(node.gpus, 0):
            found.append(f"{node.node}: used {node.used} is not between 0 and its {node.gpus} GPUs; write the GPUs that others hold")
    stateless = frozenset(node.node for node in nodes).difference(stated)
    return Imported(list(nodes), found, [*_odd(nodes), *_without_nodes(sorted(empty))], stateless)


def _odd(nodes: Sequence[FleetNode]) -> list[str]:
    leaves = Counter((node.at.cluster, node.at.s2, node.at.s1) for node in nodes)
    if len(nodes) < CROWDED_NODES or not leaves:
        return []
    (path, count) = leaves.most_common(1)[0]
    if count > CROWDED_SHARE * len(nodes):
        return [f"{count} of {len(nodes)} nodes sit in one s1, {'/'.join(path)}; is the fabric read right?"]
    return []


def _without_nodes(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:NAMED_MAX]) + (f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else "")
    return [f"no node is listed under {shown}; is the file complete?"]


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def _words(message: str) -> str:
    """The converter's message with the path first."""
    text, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    return f"{field}: {text}" if field else text
