"""Which partition a key belongs to: murmur2 as Java clients compute it, so that any publisher agrees with us."""

from __future__ import annotations

import functools
from typing import Final

_SEED: Final = 0x9747B28C
_FACTOR: Final = 0x5BD1E995
_WORD: Final = 0xFFFFFFFF
_SIGN: Final = 0x7FFFFFFF


def murmur2(key: bytes) -> int:
    """32-bit murmur2 of `key`, unsigned, with the seed that Kafka's default partitioner uses."""
    length = len(key)
    state = _SEED ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _FACTOR & _WORD
        word = (word ^ word >> 24) * _FACTOR & _WORD
        state = (state * _FACTOR & _WORD) ^ word
    if whole != length:
        state = (state ^ int.from_bytes(key[whole:], "little")) * _FACTOR & _WORD
    state = (state ^ state >> 13) * _FACTOR & _WORD
    return state ^ state >> 15


@functools.lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of `key` in a topic of so many partitions."""
    return (murmur2(key) & _SIGN) % partitions


def assign_ranges(members: list[str], partitions: dict[str, int]) -> dict[str, list[tuple[str, int]]]:
    """Kafka's range assignor: per topic, consecutive partitions to members in sorted order, the first ones taking one more.

    Topics of equal counts are therefore co-partitioned: one member holds partition p of all of them.
    """
    ordered = sorted(members)
    held: dict[str, list[tuple[str, int]]] = {member: [] for member in ordered}
    for topic in sorted(partitions):
        share, rest = divmod(partitions[topic], len(ordered)) if ordered else (0, 0)
        start = 0
        for index, member in enumerate(ordered):
            count = share + (1 if index < rest else 0)
            held[member] += [(topic, partition) for partition in range(start, start + count)]
            start += count
    return held
