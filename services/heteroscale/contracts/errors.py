"""The error tree. An adapter wraps what a library raises into one of these; cores raise only Broken."""

from __future__ import annotations


class HeteroscaleError(Exception):
    """Root of all errors that this project raises."""


class Retryable(HeteroscaleError):
    """Something outside is away for now: back off, hold the partition, try again."""


class Rejected(HeteroscaleError):
    """An input that can never be used. `code` is stable and safe as a metric label; `place` says where it stood."""

    def __init__(self, code: str, message: str, place: str = "") -> None:
        super().__init__(f"{place}: {message}" if place else message)
        self.code = code
        self.message = message
        self.place = place


class Stale(HeteroscaleError):
    """Overtaken by something newer: drop it and count it."""


class Broken(HeteroscaleError):
    """An invariant does not hold: stop the process rather than go on."""
