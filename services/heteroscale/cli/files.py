"""Files that commands read: JSON lines and YAML, each value with its place (FILE:LINE[:COLUMN]) for messages; `-` is stdin."""

from __future__ import annotations

import contextlib
import gc
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from heteroscale.contracts.errors import Rejected

STDIN = "-"
DEPTH_MAX: Final = 1_000
"""Levels of nesting in a document."""
_NESTING: Final = re.compile(r"[\[\]{}]")
_STEPS: Final = re.compile(rf"(?:[-?:] +){{{DEPTH_MAX}}}")
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Line(NamedTuple):
    """One non-empty line and where it stands."""

    place: str
    payload: bytes


def read_bytes(path: str | Path) -> bytes:
    """A whole file. Raises Rejected (`unreadable`) that names it."""
    if str(path) == STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error), str(path)) from error


def read_lines(path: str | Path) -> Iterator[Line]:
    """The lines of a JSON-lines file that are not blank, as they come. Raises Rejected (`unreadable`)."""
    if str(path) == STDIN:
        yield from _numbered("stdin", sys.stdin.buffer)
        return
    try:
        with Path(path).open("rb") as opened:
            yield from _numbered(str(path), opened)
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error), str(path)) from error


def _numbered(name: str, lines: Any) -> Iterator[Line]:
    for number, payload in enumerate(lines, start=1):
        if payload.strip():
            yield Line(f"{name}:{number}", payload)


class Located:
    """A YAML document that knows where each of its values stands."""

    def __init__(self, name: str, node: yaml.Node, document: object) -> None:
        self.name = name
        self.document = document
        self._node = node

    @property
    def place(self) -> str:
        """FILE:LINE of the document's first line."""
        return f"{self.name}:{self._node.start_mark.line + 1}"

    def place_of(self, path: Sequence[str | int]) -> str:
        """FILE:LINE of the value at `path`, or of the nearest thing around it that exists."""
        node = self._node
        line = node.start_mark.line
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return f"{self.name}:{line + 1}"


def _child(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == str(step):
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and 0 <= step < len(node.value):
        return node.value[step].start_mark.line, node.value[step]
    return None


def read_yaml(path: str | Path) -> list[Located]:
    """The documents of a YAML file (several with `---`; empty ones are left out).

    Raises Rejected (`unreadable`, or `yaml` with line and column; a key given twice is refused too).
    """
    name = "stdin" if str(path) == STDIN else str(path)
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise Rejected("yaml", "not UTF-8 text", name) from error
    return parse_yaml(text, name)


@contextlib.contextmanager
def many_objects() -> Iterator[None]:
    """No garbage collection meanwhile: of the millions of objects of a large document none goes, and looking takes most of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@many_objects()
def parse_yaml(text: str, name: str) -> list[Located]:
    """The documents of a YAML text; `name` stands for the file in messages. Raises Rejected (`yaml`)."""
    documents: list[Located] = []
    try:
        _refuse_depth(text)
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            _refuse_twice(node, name)
            document = loader.construct_document(node)
            if document is not None:
                documents.append(Located(name, node, document))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise Rejected("yaml", _in_words(error), place) from error
    except yaml.YAMLError as error:
        raise Rejected("yaml", str(error).replace("\n", " "), name) from error
    except RecursionError as error:
        raise Rejected("yaml", "nested too deeply", name) from error
    except ValueError as error:  # an impossible date such as 2026-02-30
        raise Rejected("yaml", str(error), name) from error
    return documents


def _refuse_depth(text: str) -> None:
    """Raises RecursionError before the parser would run out of stack, which ends the process."""
    depth = 0
    for sign in _NESTING.findall(text):
        depth = max(0, depth + (1 if sign in "[{" else -1))
        if depth > DEPTH_MAX:
            raise RecursionError
    if _STEPS.search(text):
        raise RecursionError


def _in_words(error: yaml.MarkedYAMLError) -> str:
    words = " ".join(part for part in (error.context, error.problem) if part)
    if "\\t" in words:
        words += "; indent with spaces, not tabs"
    return f"not YAML: {words}"


def _refuse_twice(node: yaml.Node, name: str) -> None:
    waiting = [node]
    visited: set[int] = set()  # anchors make the tree a graph, perhaps with a cycle
    while waiting:
        at = waiting.pop()
        if id(at) in visited:
            continue
        visited.add(id(at))
        if isinstance(at, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in at.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen and key.value != "<<":
                        place = f"{name}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
                        raise Rejected("yaml", f"the key {key.value!r} is given twice; keep one of them", place)
                    seen.add(key.value)
                waiting.append(value)
        elif isinstance(at, yaml.SequenceNode):
            waiting.extend(at.value)
