"""The fleet's clock: the newest command's at_ms. It only moves forward, so one wrong stamp must not move it. Pure.

A command that is more than a week ahead of the clock is refused, and remembered. The next one is taken if it is later than the
remembered one: then it is the clock that stood still. Commands are affirmed once a minute, so after a week without any the first
ones cost a minute, and one wrong stamp costs nothing but itself. A fleet's very first command has no clock to be held against, so
it is held against the newest record of the fleet's nodes, and may be a year ahead of that: fleets wait for their first service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.units import instant_text
from heteroscale.placement.fold import Event

AHEAD_MAX_MS: Final = 7 * 24 * 3_600_000
FIRST_AHEAD_MAX_MS: Final = 365 * 24 * 3_600_000
DAY_MS: Final = 86_400_000


@dataclass(slots=True)
class Sifted:
    """Events that may be folded; commands from too far ahead, and what is wrong with them; at_ms of the last command if it was one."""

    suspect_ms: int | None
    events: list[Event] = field(default_factory=list)
    refused: list[tuple[Command, Rejected]] = field(default_factory=list)


def sift(now_ms: int, suspect_ms: int | None, events: Sequence[Event], observed_ms: int = 0) -> Sifted:
    """Part commands that would carry the clock away from the other events.

    `observed_ms`: when a node of the fleet was last told of, which judges the command that sets the clock (`now_ms` 0); a fleet
    that knows neither (0) takes anything.
    """
    found = Sifted(suspect_ms)
    for event in events:
        if isinstance(event, Command):
            known_ms, ahead_max_ms = (now_ms, AHEAD_MAX_MS) if now_ms else (observed_ms, FIRST_AHEAD_MAX_MS)
            before, ahead = found.suspect_ms, 0 < known_ms < event.at_ms - ahead_max_ms
            if ahead and (before is None or not before < event.at_ms <= before + AHEAD_MAX_MS):
                found.suspect_ms = event.at_ms
                found.refused.append((event, _too_far(event, known_ms)))
                continue
            now_ms, found.suspect_ms = max(now_ms, event.at_ms), None
        found.events.append(event)
    return found


def _too_far(command: Command, known_ms: int) -> Rejected:
    return Rejected(
        "far_future",
        f"{instant_text(command.at_ms)} is {(command.at_ms - known_ms) // DAY_MS} days ahead of the clock of fleet {command.fleet}"
        f" ({instant_text(known_ms)}): a wrong clock, or not milliseconds; if it is right, the next command will be taken",
        f"command of {command.service}, at_ms",
    )
