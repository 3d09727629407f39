"""What this machine can do for tests. A missing capability skips by its name; a required one that is missing fails a CI run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import pytest

REQUIRED = frozenset({"kafka", "redis"})


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing a test may need: how it is had, or why it is not."""

    name: str
    available: bool
    how: str


_found: dict[str, Capability] = {}
_skipped: dict[str, int] = {}


def in_ci() -> bool:
    """Whether a missing required capability is a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def look(name: str, find: Callable[[], tuple[bool, str]]) -> Capability:
    """Find out once in a run."""
    if name not in _found:
        available, how = find()
        _found[name] = Capability(name, available, how)
    return _found[name]


def missing(capability: Capability) -> NoReturn:
    """Skip the running test, or fail it where the capability is required."""
    _skipped[capability.name] = _skipped.get(capability.name, 0) + 1
    message = f"capability {capability.name}: {capability.how}"
    if in_ci() and capability.name in REQUIRED:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def table() -> list[str]:
    """One line a capability that some test asked for."""
    lines = []
    for name, capability in sorted(_found.items()):
        skipped = f", {_skipped[name]} tests skipped" if _skipped.get(name) else ""
        lines.append(f"{name:12} {'yes' if capability.available else 'MISSING':8} {capability.how}{skipped}")
    return lines


def unmet() -> list[str]:
    """Required capabilities that some test asked for in vain."""
    return sorted(name for name, capability in _found.items() if name in REQUIRED and not capability.available)
