"""How long an HTTP server that was asked too much wants to be left alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LIMIT_S: Final = 300.0  # whatever it says


def wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds by Retry-After; null if it does not say, or says it as a date (a clock that differs would make that any time)."""
    after = headers.get("Retry-After", "")
    return min(LIMIT_S, float(after)) if after.isdecimal() else None
