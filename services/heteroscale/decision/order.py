"""The order in which the records of one poll are handled: by time, and never against the order of a partition."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from heteroscale.bus.log import Record


def by_time(records: Iterable[Record]) -> Iterator[Record]:
    """Merge partitions by timestamp, then topic (placements before signals), partition, offset."""
    lanes: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        lanes.setdefault((record.topic, record.partition), []).append(record)
    return heapq.merge(*(_risen(lanes[lane]) for lane in sorted(lanes)), key=_key)


def _risen(lane: Sequence[Record]) -> list[Record]:
    """A partition in its own order. heapq.merge takes the head of each lane, so a stamp that falls back only comes later."""
    return sorted(lane, key=lambda record: record.offset)


def _key(record: Record) -> tuple[int, str, int, int]:
    return (record.timestamp_ms, record.topic, record.partition, record.offset)
