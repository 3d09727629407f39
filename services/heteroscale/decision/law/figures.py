"""How figures are written in the details of a decision."""

from __future__ import annotations


def plain(value: float) -> str:
    """Without an exponent: 1371070.4 is `1,371,070`, below a thousand six digits count (`0.85`, `412.5`)."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:g}"
