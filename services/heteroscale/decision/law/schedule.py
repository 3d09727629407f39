"""Stage 3, schedule: which schedule is active at an instant, and the fixed count it may set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.spec import Schedule
from heteroscale.decision.law import ratio as ratios
from heteroscale.decision.law.staged import Facts, Staged
from heteroscale.decision.law.tracks import Track

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY = 24 * 60


def apply(facts: Facts, value: int) -> Staged:
    """Fixed counts take the place of all wishes; other bounds are those of the next stage."""
    fixed = fixed_count(facts.schedule, facts.track)
    if facts.schedule is None or fixed is None or fixed == value:
        return Staged(value)
    reason = Reason.SCHEDULE_FIXED if fixed == facts.n else Reason.SCHEDULE
    return Staged(fixed, reason, f"schedule {facts.schedule.name} fixes {fixed} {facts.track.lead}")


def active(schedules: Sequence[Schedule], at_ms: int) -> Schedule | None:
    """The schedule whose days and half-open [start, end) hold the instant, as clocks on its zone's walls show it."""
    for schedule in schedules:
        local = local_time(schedule.timezone, at_ms)
        minute = local.hour * 60 + local.minute
        if DAYS[local.weekday()] in schedule.days and minute_of(schedule.start) <= minute < minute_of(schedule.end):
            return schedule
    return None


def fixed_count(schedule: Schedule | None, track: Track) -> int | None:
    """The lead's count under fixed `replicas`: the smallest n that gives every named role its count."""
    if schedule is None or schedule.replicas is None:
        return None
    asked = [
        ratios.lead_for(count, role, track.ratio, track.lead) for role, count in sorted(schedule.replicas.items()) if role in track.ratio
    ]
    if track.lead in schedule.replicas:
        return schedule.replicas[track.lead]
    return max(asked, default=None)


def local_time(timezone: str, at_ms: int) -> datetime:
    """The wall clock of a zone at an instant."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(_zone(timezone))


def minute_of(text: str) -> int:
    """Minutes since midnight of `HH:MM`; `24:00` is the end of the day."""
    hours, _, minutes = text.partition(":")
    return min(int(hours) * 60 + int(minutes or 0), MINUTES_PER_DAY)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
