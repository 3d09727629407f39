"""Files that `fleet import` reads: which format one is, and its nodes or everything that is wrong with it."""

from __future__ import annotations

from typing import Final

import msgspec

from heteroscale.cli import files
from heteroscale.contracts.errors import Rejected
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


def read(path: str, source: Source) -> Imported:
    """The nodes of a file. Raises Rejected with all problems in it."""
    text = _text(path)
    form = _guess(path, text) if source.form == "auto" else source.form
    imported = _read(path, text, form, source)
    if imported.problems:
        shown = imported.problems[:SHOWN_PROBLEMS_MAX]
        more = len(imported.problems) - len(shown)
        lines = [*shown, *([f"and {more} more"] if more else [])]
        raise Rejected("fleet", lines[0] if len(lines) == 1 else "\n  ".join([f"{len(imported.problems)} problems", *lines]), path)
    if not imported.nodes:
        raise Rejected("fleet", "lists no node", path)
    return imported


def _text(path: str) -> str:
    try:
        return files.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected("fleet", "not UTF-8 text", path) from error


def _guess(path: str, text: str) -> str:
    if path.endswith(".csv"):
        return "csv"
    first = next((line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")), "")
    if first.lower().startswith(("switchname=", "blockname=")):
        return "slurm"
    if "," in first and ":" not in first and not first.startswith(("{", "[")):
        return "csv"
    document = _document(path, text)
    if isinstance(document, dict):
        if "items" in document or document.get("kind") in {"Node", "NodeList", "List"}:
            return "kubernetes"
        if "switches" in document or "blocks" in document:
            return "topograph"
    return "yaml"


def _document(path: str, text: str) -> object:
    documents = files.parse_yaml(text, path)
    if len(documents) != 1:
        raise Rejected("fleet", f"holds {len(documents)} documents; write one", path)
    return documents[0].document


def _read(path: str, text: str, form: str, source: Source) -> Imported:
    from heteroscale.placement.topologies import fabrics  # noqa: PLC0415 (only these formats need it)

    given = fabrics.Given(fleet=source.fleet or "default", cluster=source.cluster, gpu_type=source.gpu_type, gpus=source.gpus)
    if form == "csv":
        return importers.from_csv(text, source.fleet)
    if form == "slurm":
        return fabrics.from_slurm(text, given)
    document = _document(path, text)
    if form == "kubernetes":
        return fabrics.from_kubernetes(document, given)
    if form == "topograph":
        return fabrics.from_topograph(document, given)
    return importers.from_document(document, source.fleet)
