"""Schedules on the walls of their zone: half-open, by day, and on the days when clocks change."""

from __future__ import annotations

from typing import Any

import pytest

from heteroscale.contracts import codec
from heteroscale.contracts.spec import Schedule
from heteroscale.contracts.units import Instant
from heteroscale.decision.law import schedule

DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def active(at: str, **fields: Any) -> bool:
    """Whether one schedule is active at an instant."""
    document = {"name": "s", "timezone": "UTC", "days": DAYS, "start": "09:00", "end": "18:00", "replicas": {"decode": 4}} | fields
    return schedule.active([codec.convert(Schedule, document)], Instant.parse(at).ms) is not None


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-23T08:59:59Z", False),
        ("2026-11-23T09:00Z", True),
        ("2026-11-23T17:59:59Z", True),
        ("2026-11-23T18:00Z", False),
    ],
)
def test_start_is_in_and_end_is_out(at: str, expected: bool) -> None:  # noqa: FBT001 - a test parameter
    """Half-open [start, end)."""
    assert expected == active(at)


def test_days_are_those_of_the_zone() -> None:
    """Monday 00:30 in Shanghai is Sunday in UTC."""
    assert active("2026-11-22T16:30Z", timezone="Asia/Shanghai", days=["mon"], start="00:00", end="06:00")
    assert not active("2026-11-22T16:30Z", timezone="UTC", days=["mon"], start="00:00", end="24:00")


def test_clocks_go_forward() -> None:
    """Berlin, 2026-03-29: 02:00 to 03:00 does not exist; 01:00 to 04:00 lasts two hours."""
    night = {"timezone": "Europe/Berlin", "start": "01:00", "end": "04:00"}
    seen = [active(f"2026-03-{day}T{hour:02d}:30Z", **night) for day, hour in ((28, 23), (29, 0), (29, 1), (29, 2))]
    assert [False, True, True, False] == seen


def test_clocks_go_back() -> None:
    """Berlin, 2026-10-25: 02:00 to 03:00 comes twice, and both count."""
    night = {"timezone": "Europe/Berlin", "start": "02:00", "end": "03:00"}
    seen = [active(f"2026-10-25T{clock}Z", **night) for clock in ("00:30", "01:30", "02:30")]
    assert [True, True, False] == seen
