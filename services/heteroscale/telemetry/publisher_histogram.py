"""Counting latencies inside an engine: observations since start, each in exactly one bucket."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from heteroscale.contracts.telemetry import Histogram


class LatencyHistogram:
    """Buckets with the edges of one layout (seconds, ascending). One writer; `snapshot` may be taken by another thread."""

    def __init__(self, layout: str, edges_s: Sequence[float]) -> None:
        self.layout = layout
        self.edges_s = tuple(float(edge) for edge in edges_s)
        if not self.edges_s or list(self.edges_s) != sorted(set(self.edges_s)):
            raise ValueError(f"edges must ascend, and there must be one at least: {list(edges_s)}")
        self._counts = [0] * (len(self.edges_s) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a latency; an observation on an edge belongs to the bucket below it, as in Prometheus."""
        self._counts[bisect.bisect_left(self.edges_s, seconds)] += times
        self._sum_s += seconds * times

    def snapshot(self) -> Histogram:
        """What goes into a sample."""
        return Histogram(layout=self.layout, counts=list(self._counts), sum_s=self._sum_s)
