"""Addresses that people give: what is none is refused with the form to write, before anything is dialled."""

from __future__ import annotations

import pytest

from heteroscale.servers import probe


@pytest.mark.parametrize("given", ["localhost", ":9092", "a:b", "127.0.0.1:99999", "127.0.0.1:0", "a:9092,"])
def test_what_is_no_kafka_address_is_refused(given: str) -> None:
    """With the form to write."""
    with pytest.raises(ValueError, match=r"is not a Kafka address; write host:port"):
        probe.kafka_connects(given)


@pytest.mark.parametrize("given", ["127.0.0.1:6379", "http://h:1/0", "redis://", "redis://h:99999/0", "redis://h:0/0"])
def test_what_is_no_redis_address_is_refused(given: str) -> None:
    """With the form to write."""
    with pytest.raises(ValueError, match=r"is not a Redis address; write redis://host:port/0"):
        probe.redis_connects(given)


def test_passwords_are_not_shown_in_a_refusal() -> None:
    """Nobody's log should hold one."""
    with pytest.raises(ValueError, match=r"not a Redis address") as refused:
        probe.redis_connects("http://u:hunter2@h:6379/0")
    assert "hunter2" not in str(refused.value)
