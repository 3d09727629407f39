"""Files that `fleet import` reads: which format one is, and its nodes or everything that is wrong with it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from heteroscale.cli import files
from heteroscale.contracts import keys
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode
from heteroscale.placement.topologies import importers
from heteroscale.placement.topologies.importers import Imported

FORMATS: Final = ("auto", "yaml", "csv", "topograph", "kubernetes", "slurm")
SHOWN_PROBLEMS_MAX: Final = 20


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """How to read a file, and what it does not say itself."""

    form: str = "auto"
    fleet: str | None = None
    cluster: str | None = None
    gpu_type: str | None = None
    gpus: int | None = None
    labels: Mapping[str, tuple[str, ...]] = {}


def labels_of(given: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """`LEVEL=KEY` as people write them. Raises Rejected."""
    from heteroscale.placement.topologies.kubernetes import MAPPED  # noqa: PLC0415 (only where labels are named)

    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        level, _, key = text.partition("=")
        if level not in MAPPED or not key:
            raise Rejected(
                "label", f"--label {text!r} is not LEVEL=KEY; write one such as s1=example.com/leaf, LEVEL is one of {', '.join(MAPPED)}"
            )
        found[level] = (*found.get(level, ()), key)
    return found


def read(path: str, source: Source) -> Imported:
    """The nodes of a file. Raises Rejected with all problems in it."""
    file = _File(path, _text(path))
    imported = _read(file, _guess(file) if source.form == "auto" else source.form, source)
    if imported.problems:
        shown = imported.problems[:SHOWN_PROBLEMS_MAX]
        more = len(imported.problems) - len(shown)
        lines = [*shown, *([f"and {more} more"] if more else [])]
        raise Rejected("fleet", lines[0] if len(lines) == 1 else "\n  ".join([f"{len(imported.problems)} problems", *lines]), path)
    if not imported.nodes:
        raise Rejected("fleet", "lists no node", path)
    return imported


def as_written(imported: Imported, known: Mapping[str, FleetNode]) -> list[FleetNode]:
    """The nodes as an import writes them: one whose file says no state keeps the one that it has. `known`: by their keys."""

    def kept(node: FleetNode) -> FleetNode:
        before = known.get(keys.node_key(node.fleet, node.node)) if node.node in imported.stateless else None
        return node if before is None else msgspec.structs.replace(node, state=before.state)

    return [kept(node) for node in imported.nodes]


class _File:
    """A file's text, and the document in it, which is read once."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text

    @functools.cached_property
    def document(self) -> object:
        """What the YAML or JSON says. Raises Rejected."""
        if self.text.lstrip()[:1] in ("{", "["):
            with contextlib.suppress(msgspec.DecodeError, RecursionError), files.many_objects():
                found: object = msgspec.json.decode(self.text)
                return found
        documents = files.parse_yaml(self.text, self.path)
        if len(documents) != 1:
            raise Rejected("fleet", f"holds {len(documents)} documents; write one", self.path)
        return documents[0].document


def _text(path: str) -> str:
    try:
        return files.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected("fleet", "not UTF-8 text", path) from error


def _guess(file: _File) -> str:
    path, text = file.path, file.text
    if path.endswith(".csv"):
        return "csv"
    first = next((line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")), "")
    if _is_conf(text):
        return "slurm"
    if "," in first and ":" not in first and not first.startswith(("{", "[")):
        return "csv"
    return _guess_document(file.document)


def _guess_document(document: object) -> str:
    if isinstance(document, dict):
        if "items" in document or document.get("kind") in {"Node", "NodeList", "List"}:
            return "kubernetes"
        if "switches" in document or "blocks" in document:
            return "topograph"
    if isinstance(document, list) and document and all(isinstance(one, dict) and "topology" in one for one in document):
        return "slurm"
    return "yaml"


def _is_conf(text: str) -> bool:
    """Slurm's older format: settings by line."""
    first = next((line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")), "")
    return first.lower().startswith(("switchname=", "blockname=", "blocksizes="))


@files.many_objects()
def _read(file: _File, form: str, source: Source) -> Imported:
    from heteroscale.placement.topologies import fabrics, kubernetes, slurm  # noqa: PLC0415 (only these formats need it)

    given = fabrics.Given(
        fleet=source.fleet or "default", cluster=source.cluster, gpu_type=source.gpu_type, gpus=source.gpus, labels=source.labels
    )
    if form == "csv":
        return importers.from_csv(file.text, source.fleet)
    if form == "slurm" and _is_conf(file.text):
        return slurm.from_conf(file.text, given)
    document = file.document
    if form == "slurm":
        return slurm.from_yaml(document, given)
    if form == "kubernetes":
        return kubernetes.from_nodes(document, given)
    if form == "topograph":
        return fabrics.from_topograph(document, given)
    return importers.from_document(document, source.fleet)
