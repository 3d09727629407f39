"""Rules about schedules: one zone, whole days and quoted times, no overlap, no crossing midnight, and a feasible count in each."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from typing import Final

from heteroscale.contracts.spec import Schedule, ServiceSpec
from heteroscale.decision.law import ratio as ratio_law
from heteroscale.decision.specs.counts import Bounds, base_bounds, check_feasible, lead_of
from heteroscale.decision.specs.problems import Path, Problem, did_you_mean, nearest

_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")
END_OF_DAY: Final = "24:00"


def minute_of_day(text: str) -> int | None:
    """`09:30` as minutes since midnight (`24:00` = 1440); null where it is no time of day."""
    if _TIME.fullmatch(text) is None:
        return None
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def check_schedules(spec: ServiceSpec) -> Iterator[Problem]:
    """All rules about schedules."""
    names: dict[str, int] = {}
    for index, schedule in enumerate(spec.schedules):
        at: Path = ("schedules", index)
        if schedule.name in names:
            cure = "give each schedule a name of its own"
            yield Problem((*at, "name"), f"{schedule.name!r} is also schedules[{names[schedule.name]}]; {cure}")
        names.setdefault(schedule.name, index)
        yield from _check_zone(spec, schedule, at)
        yield from _check_times(schedule, at)
        yield from _check_counts(spec, schedule, at)
    yield from _check_overlaps(spec)


def _check_zone(spec: ServiceSpec, schedule: Schedule, at: Path) -> Iterator[Problem]:
    place = (*at, "timezone")
    try:
        zoneinfo.ZoneInfo(schedule.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        close = nearest(schedule.timezone, zoneinfo.available_timezones())
        cure = f"did you mean {close}?" if close else "write an IANA zone such as Asia/Shanghai, Europe/Berlin or UTC"
        yield Problem(place, f"{schedule.timezone!r} is not a time zone; {cure}")
        return
    first = spec.schedules[0].timezone
    if schedule.timezone != first:
        cure = f"write one zone for all schedules, such as {first}"
        yield Problem(place, f"{schedule.timezone!r} is not the zone of schedules[0], {first!r}; {cure}", (("schedules", 0, "timezone"),))


def _check_times(schedule: Schedule, at: Path) -> Iterator[Problem]:
    if not schedule.days:
        yield Problem((*at, "days"), "is empty; write the days, such as [mon, tue, wed, thu, fri]")
    for key, text in (("start", schedule.start), ("end", schedule.end)):
        if minute_of_day(text) is None:
            yield Problem((*at, key), f'{text!r} is not a time of day; write it as "{_better_time(text)}"')
    start, end = minute_of_day(schedule.start), minute_of_day(schedule.end)
    if start is None or end is None:
        return
    touches = ((*at, "start"),)
    if start == end:
        cure = f'for a whole day write start: "00:00", end: "{END_OF_DAY}"'
        yield Problem((*at, "end"), f'"{schedule.end}" equals start, so the schedule is never active; {cure}', touches)
    elif end == 0:
        yield Problem((*at, "end"), f'"{schedule.end}" crosses midnight; for the end of the day write "{END_OF_DAY}"', touches)
    elif start > end:
        cure = f'write two schedules, "{schedule.start}" to "{END_OF_DAY}" and, on the next days, "00:00" to "{schedule.end}"'
        yield Problem((*at, "end"), f'"{schedule.end}" is before start "{schedule.start}" and crosses midnight; {cure}', touches)


def _better_time(text: str) -> str:
    found = re.fullmatch(r"\s*(\d{1,2})[:.h]?(\d{2})?(?::\d{2})?\s*(am|pm)?\s*", text.lower())
    if found is None:
        return "09:00"
    hours = int(found[1]) % 12 + (12 if found[3] == "pm" else 0) if found[3] else int(found[1])
    better = f"{hours:02d}:{found[2] or '00'}"
    return better if minute_of_day(better) is not None else "09:00"


def _check_counts(spec: ServiceSpec, schedule: Schedule, at: Path) -> Iterator[Problem]:
    if not schedule.roles and not schedule.replicas:
        cure = "write roles: {decode: {min: 12}} or replicas: {prefill: 2, decode: 4}"
        yield Problem(at, f"{schedule.name!r} changes nothing; {cure}")
    if schedule.roles and schedule.replicas:
        yield Problem((*at, "replicas"), "stands beside roles; fixed counts leave no bounds, write one of the two")
    for key, named in (("roles", schedule.roles or {}), ("replicas", schedule.replicas or {})):
        for role in sorted(set(named) - set(spec.roles)) if spec.roles else []:
            yield Problem((*at, key, role), f"there is no such role; {did_you_mean(role, spec.roles)}")
    if schedule.roles:
        yield from _check_bounds(spec, schedule, at)
    if schedule.replicas:
        yield from _check_replicas(spec, schedule, at)


def _check_bounds(spec: ServiceSpec, schedule: Schedule, at: Path) -> Iterator[Problem]:
    bounds = base_bounds(spec)
    for role, change in sorted((schedule.roles or {}).items()):
        place = (*at, "roles", role)
        base = bounds.get(role)
        if change.min is None and change.max is None:
            yield Problem(place, "changes nothing; write min, max or both")
        if base is None:
            continue
        least, least_path = (base.least, base.least_path) if change.min is None else (change.min, (*place, "min"))
        most, most_path = (base.most, base.most_path) if change.max is None else (change.max, (*place, "max"))
        bounds[role] = Bounds(least, most, least_path, most_path)
        if least < 0 or most < 0:
            yield Problem(place, f"min {least}, max {most} is not possible; write 0 or more")
        elif least > most:
            cure = f"write min: {most} or give the schedule max: {least}"
            yield Problem(
                (*place, "min"), f"{least} is above max {most}, so the schedule has no feasible count; {cure}", (most_path, least_path)
            )
    yield from check_feasible(spec, bounds, at, f" while {schedule.name!r} is active")


def _check_replicas(spec: ServiceSpec, schedule: Schedule, at: Path) -> Iterator[Problem]:
    replicas = schedule.replicas or {}
    bounds = base_bounds(spec)
    place = (*at, "replicas")
    for role, count in sorted(replicas.items()):
        base = bounds.get(role)
        if count < 0:
            yield Problem((*place, role), f"{count} is negative; write 0 or more")
        elif base is not None and base.least <= base.most and not base.least <= count <= base.most:
            side, cure = ("below min", f"min: {count}") if count < base.least else ("above max", f"max: {count}")
            bound = base.least if count < base.least else base.most
            text = f"{count} is {side} {bound} of the role, so the schedule has no feasible count"
            touches = (base.least_path, base.most_path)
            yield Problem((*place, role), f"{text}; write {role}: {bound} or roles.{role} {cure}", touches)
    lead = lead_of(spec)
    named = sorted(set(replicas) & set(spec.ratio))
    if lead is None or not named or any(share < 1 for share in spec.ratio.values()) or min(replicas.values()) < 0:
        return
    n = replicas[lead] if lead in replicas else max(ratio_law.lead_for(replicas[role], role, spec.ratio, lead) for role in named)
    kept = ratio_law.derive(n, spec.ratio, lead)
    if any(replicas[role] != kept[role] for role in named):
        given = ", ".join(f"{role}: {replicas[role]}" for role in named)
        shares = ", ".join(f"{role}: {share}" for role, share in sorted(spec.ratio.items()))
        cure = ", ".join(f"{role}: {count}" for role, count in kept.items())
        touches = (("ratio",), ("signals", 0))
        yield Problem(place, f"{{{given}}} does not keep the ratio {{{shares}}}; write {{{cure}}}", touches)


def _check_overlaps(spec: ServiceSpec) -> Iterator[Problem]:
    spans = [(index, schedule, minute_of_day(schedule.start), minute_of_day(schedule.end)) for index, schedule in enumerate(spec.schedules)]
    for here, (index, schedule, start, end) in enumerate(spans):
        for other_index, other, other_start, other_end in spans[:here]:
            shared = [day for day in schedule.days if day in other.days]
            if start is None or end is None or other_start is None or other_end is None or not shared:
                continue
            if max(start, other_start) < min(end, other_end):
                text = (
                    f"{schedule.name!r} overlaps {other.name!r} on {', '.join(shared)} "
                    f'("{schedule.start}" to "{schedule.end}" and "{other.start}" to "{other.end}"); '
                    f"end one where the other starts, or take the days out of one"
                )
                yield Problem(("schedules", index), text, (("schedules", other_index),))
