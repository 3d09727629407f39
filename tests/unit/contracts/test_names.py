"""Ids are a function of what they name."""

from __future__ import annotations

import hashlib

from heteroscale.contracts import names


def test_decision_ids_follow_the_published_formula() -> None:
    """First 16 hex digits of sha256 over `service|end_ms|spec_revision|policy_version`, so that others can recompute them."""
    expected = hashlib.sha256(b"chat-70b|1732000320000|3|1").hexdigest()[:16]
    assert expected == names.decision_id("chat-70b", 1_732_000_320_000, 3, 1)


def test_every_part_of_a_decision_id_counts() -> None:
    """Another service, window, revision or policy is another decision."""
    ids = {
        names.decision_id("a", 1, 1, 1),
        names.decision_id("b", 1, 1, 1),
        names.decision_id("a", 2, 1, 1),
        names.decision_id("a", 1, 2, 1),
        names.decision_id("a", 1, 1, 2),
    }
    assert 5 == len(ids)


def test_short_hash_length_is_as_asked() -> None:
    """Hexadecimal digits, as many as asked for."""
    assert 8 == len(names.short_hash("x", 8))
