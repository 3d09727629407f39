"""A window from too far ahead is believed when the next one of its service does not end before it, and refuted when it does."""

from __future__ import annotations

from heteroscale.decision.doubt import LEAP_MS, Arrived, Doubts, Sifted
from support import lawbook

LAST_MS = lawbook.START_MS


def at(hops: int, number: int = 0) -> Arrived[int]:
    """A window that ends so many hops after the last decided one."""
    return Arrived(number, lawbook.window(hops, decode=4, load=4.0))


FAR = LEAP_MS // lawbook.HOP_MS + 1


def test_a_leap_of_an_hour_is_none() -> None:
    """Up to the limit a window is believed at once; one hop more waits."""
    assert Sifted([at(FAR - 1)]) == Doubts[int]().sift(at(FAR - 1), LAST_MS)
    assert Sifted([]) == Doubts[int]().sift(at(FAR), LAST_MS)


def test_the_first_window_of_a_service_is_believed() -> None:
    """There is nothing to leap from."""
    assert Sifted([at(FAR)]) == Doubts[int]().sift(at(FAR), -1)


def test_the_next_window_settles_it() -> None:
    """Not before it: both, in order. Before it: the doubtful one is refuted, and the other stands for itself."""
    doubts = Doubts[int]()
    doubts.sift(at(FAR, 1), LAST_MS)
    assert Sifted([at(FAR, 1), at(FAR + 1, 2)]) == doubts.sift(at(FAR + 1, 2), LAST_MS)
    doubts.sift(at(FAR, 3), LAST_MS)
    assert Sifted([at(1, 4)], at(FAR, 3)) == doubts.sift(at(1, 4), LAST_MS)


def test_leaps_upon_leaps_are_each_believed_by_the_next() -> None:
    """A service with a window a day is a day behind, and no window is lost."""
    doubts = Doubts[int]()
    assert Sifted([]) == doubts.sift(at(FAR), LAST_MS)
    assert Sifted([at(FAR)]) == doubts.sift(at(3 * FAR), LAST_MS)
    assert Sifted([at(3 * FAR), at(3 * FAR + 1)]) == doubts.sift(at(3 * FAR + 1), at(FAR).window.end_ms)


def test_a_window_that_was_decided_already_is_no_second_opinion() -> None:
    """A copy from a zombie neither confirms nor refutes."""
    doubts = Doubts[int]()
    doubts.sift(at(FAR), LAST_MS)
    assert Sifted([at(0)]) == doubts.sift(at(0), LAST_MS)
    assert Sifted([at(FAR), at(FAR + 1)]) == doubts.sift(at(FAR + 1), LAST_MS)
