"""Which partition a key belongs to, and who holds which partition."""

from __future__ import annotations

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.partitioner import murmur2 as reference

from heteroscale.bus import partitioning


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_javas(key: bytes, expected: int) -> None:
    """The values that Kafka's own test of its Java client states."""
    value = partitioning.murmur2(key)
    assert expected == (value - (1 << 32) if value >> 31 else value)


def test_murmur2_agrees_with_the_client_library_at_every_length() -> None:
    """All remainders of the length modulo four, and bytes above 127."""
    for length in range(40):
        key = bytes((7 * n + 131 * length) % 256 for n in range(length))
        assert reference(key) & 0xFFFFFFFF == partitioning.murmur2(key)


@pytest.mark.parametrize("members", [1, 2, 3, 5, 12, 14])
def test_ranges_are_those_of_kafkas_range_assignor(members: int) -> None:
    """Compared with the client library's, for two topics of equal and one of another count."""
    names = [f"m{n:02d}" for n in range(members)]
    counts = {"left": 12, "right": 12, "small": 4}

    class Cluster(ClusterMetadata):
        """As much of a cluster as the assignor asks for."""

        def __init__(self) -> None:
            pass

        def partitions_for_topic(self, topic: str) -> set[int]:
            """Partition numbers."""
            return set(range(counts[topic]))

    metadata = {name: RangePartitionAssignor.metadata(set(counts)) for name in names}
    theirs = RangePartitionAssignor.assign(Cluster(), metadata)
    ours = partitioning.assign_ranges(names, counts)
    for name in names:
        assert sorted(theirs[name].partitions()) == sorted(ours[name])


def test_no_members_hold_nothing() -> None:
    """An empty group is no error."""
    assert {} == partitioning.assign_ranges([], {"topic": 3})
