"""Record keys: what is written under one is found again by it."""

import pytest

from heteroscale.contracts import keys
from heteroscale.contracts.units import Instant


@pytest.mark.parametrize("service", ["chat", "chat-70b", "hot#hint", "#h", "größe"])
def test_every_key_of_a_service_names_it(service: str) -> None:
    """Plain, dry run and hourly copy; a name that holds a mark without an hour behind it is a name."""
    made = [service.encode(), keys.dry_run_key(service), keys.hourly_key(service, 0)]
    assert [service] * 3 == [keys.service_of(key) for key in made]
    assert [False, True, False] == [keys.is_dry_run(key) for key in made]
    assert [False, False, True] == [keys.is_hourly(key) for key in made]


@pytest.mark.parametrize(
    ("at", "hour"),
    [("2026-11-23T00:00Z", 0), ("2026-11-23T01:59:59Z", 1), ("2026-11-29T23:59Z", 167), ("1970-01-01T00:00Z", 72)],
)
def test_hours_of_the_week_begin_on_monday(at: str, hour: int) -> None:
    """0 is Monday 00:00 UTC, 167 the last hour of Sunday."""
    assert f"chat#h{hour}".encode() == keys.hourly_key("chat", Instant.parse(at).ms)


def test_nodes() -> None:
    """FLEET/NODE there and back; of a key that has another form a part is empty."""
    assert ("f", "rack/n1") == keys.node_of(keys.node_key("f", "rack/n1").encode())
    assert [("n1", ""), ("", "n1"), ("", "")] == [keys.node_of(key) for key in (b"n1", b"/n1", None)]


def test_bytes_that_are_no_text() -> None:
    """Whoever writes to a topic may write any key: it names somebody, and nothing fails."""
    assert "\ufffd" == keys.service_of(b"\xff")
    assert not keys.is_dry_run(None)
