"""How old an engine's figures are, told by its counters. Pure.

A page can be fetched every second and still be old: some engines refresh their metrics every half minute, and a hung engine's front goes
on serving the last ones. An engine that has work and whose counters stand still has said nothing new; an idle one has.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from heteroscale.contracts.telemetry import InstanceSample

_Counters: TypeAlias = tuple[float | None, ...]
_NONE: Final[_Counters] = (None,) * 4


class Freshness:
    """What one engine's counters were when they last moved."""

    def __init__(self) -> None:
        self._counters: _Counters | None = None
        self.moved_at_ms: int | None = None

    def is_news(self, sample: InstanceSample) -> bool:
        """Whether a sample says something about its own instant, and not about an earlier one."""
        counters = (sample.generation_tokens, sample.prompt_tokens, sample.cached_prompt_tokens, sample.requests_finished)
        busy = bool(sample.running or sample.waiting)
        if busy and counters != _NONE and counters == self._counters:
            return False
        self._counters, self.moved_at_ms = counters, sample.at_ms
        return True
