"""Readiness of a process, as named conditions; served over HTTP by runtime.http."""

from __future__ import annotations


class Health:
    """Conditions that must all hold for readiness. A condition that does not hold says what is awaited."""

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}

    def waiting(self, condition: str, awaited: str) -> None:
        """`condition` does not hold; `awaited` says what for, in words for a person."""
        self._waiting[condition] = awaited

    def holds(self, condition: str) -> None:
        """`condition` holds."""
        self._waiting.pop(condition, None)

    @property
    def ready(self) -> bool:
        """Whether all conditions hold."""
        return not self._waiting

    def report(self) -> dict[str, str]:
        """What is awaited, per condition."""
        return dict(sorted(self._waiting.items()))
