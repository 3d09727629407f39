"""Latency quantiles from bucket counts, merged across instances whose buckets may differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from heteroscale.contracts.signals import Quantiles
from heteroscale.signals.wire import Edges

_RANKS: Final = (0.50, 0.90, 0.95, 0.99)
_MS_PER_S: Final = 1_000.0


def quantiles_ms(counts_by_edges: Mapping[Edges, list[float]]) -> Quantiles | None:
    """Quantiles of all observations together, in milliseconds; null without any.

    `counts_by_edges`: edges in seconds → observations a bucket (one more than edges, the last is +Inf). Different layouts
    are merged on the union of their edges, and the result is marked approximate.
    """
    seen = {edges: counts for edges, counts in sorted(counts_by_edges.items()) if math.fsum(counts) > 0}
    if not seen:
        return None
    edges, counts = next(iter(seen.items())) if len(seen) == 1 else _merged(seen)
    total = math.fsum(counts)
    found = [_quantile(rank, edges, counts, total) for rank in _RANKS]
    p50, p90, p95, p99 = (round(value * _MS_PER_S, 6) for value, _ in found)
    return Quantiles(
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        count=round(total),
        saturated=any(saturated for _, saturated in found),
        approximate=len(seen) > 1,
    )


def _quantile(rank: float, edges: Edges, counts: list[float], total: float) -> tuple[float, bool]:
    """Prometheus' histogram_quantile: linear inside the bucket; in +Inf the last finite edge, and that it is saturated."""
    sought = rank * total
    below = 0.0
    for bucket, edge in enumerate(edges):
        count = counts[bucket]
        if count > 0 and below + count >= sought:
            lower = edges[bucket - 1] if bucket else 0.0
            return lower + (edge - lower) * max(0.0, (sought - below) / count), False
        below += count
    return edges[-1], True


def _merged(seen: Mapping[Edges, list[float]]) -> tuple[Edges, list[float]]:
    """All observations on the union of the edges; a bucket that other edges cut is divided in proportion to length."""
    union = tuple(sorted({edge for edges in seen for edge in edges}))
    shares: list[list[float]] = [[] for _ in range(len(union) + 1)]
    for edges, counts in seen.items():
        for bucket, count in enumerate(counts):
            lower = edges[bucket - 1] if bucket else 0.0
            if bucket == len(edges):  # beyond its last edge nothing is known: it stays +Inf
                shares[-1].append(count)
                continue
            upper = edges[bucket]
            for i, edge in enumerate(union):
                floor = union[i - 1] if i else 0.0
                if lower <= floor and edge <= upper and upper > lower:
                    shares[i].append(count * (edge - floor) / (upper - lower))
    return union, [math.fsum(each) for each in shares]
