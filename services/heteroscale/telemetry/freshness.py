"""How old an engine's figures are, told by the figures. Pure.

A page can be fetched every second and still be old: some engines refresh their metrics every half minute, and a hung engine's front goes
on serving the last ones. An engine that has work and of which nothing moves has said nothing new; an idle one has. Some engines count
tokens when a request ends: what moves meanwhile is their queue, their KV cache and the histogram of token intervals.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from heteroscale.contracts.telemetry import InstanceSample

_Figures: TypeAlias = tuple[object, ...]
_NONE: Final[_Figures] = (None,) * 6


class Freshness:
    """What one engine's figures were when they last moved."""

    def __init__(self) -> None:
        self._figures: _Figures | None = None
        self.moved_at_ms: int | None = None

    def is_news(self, sample: InstanceSample) -> bool:
        """Whether a sample says something about its own instant, and not about an earlier one."""
        histograms = (None if one is None else one.counts for one in (sample.ttft, sample.tbt))
        counters = (sample.generation_tokens, sample.prompt_tokens, sample.cached_prompt_tokens, sample.requests_finished, *histograms)
        figures = (*counters, sample.running, sample.waiting, sample.kv_usage)
        busy = bool(sample.running or sample.waiting)
        if busy and counters != _NONE and figures == self._figures:
            return False
        self._figures, self.moved_at_ms = figures, sample.at_ms
        return True
