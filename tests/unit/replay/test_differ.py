"""Differences of two documents: the leaves that differ, and only those."""

from __future__ import annotations

from heteroscale.replay import differ


def test_only_leaves_that_differ() -> None:
    """Nested maps and lists, something more and something less."""
    one = {"a": {"b": 1, "c": [1, 2, 3]}, "d": "x", "e": None}
    other = {"a": {"b": 2, "c": [1, 5]}, "d": "x", "f": True}
    found = [(item.path, item.recorded, item.replayed) for item in differ.of_documents(one, other)]
    assert [
        ("a.b", "1", "2"),
        ("a.c[1]", "2", "5"),
        ("a.c[2]", "3", differ.ABSENT),
        ("e", "null", differ.ABSENT),
        ("f", differ.ABSENT, "true"),
    ] == found


def test_equal_documents_have_none() -> None:
    """The order of keys is no difference."""
    assert [] == differ.of_documents({"a": 1, "b": 2}, {"b": 2, "a": 1})
