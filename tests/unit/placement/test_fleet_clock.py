"""The fleet's clock is the newest command's instant: one wrong stamp is refused and moves nothing, a real jump is followed."""

from __future__ import annotations

import msgspec

from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.commands import Command
from heteroscale.placement import clock
from heteroscale.placement.clock import AHEAD_MAX_MS, FIRST_AHEAD_MAX_MS
from support import builders
from support.gangs import node
from support.placement_driver import Driver, actuation, command

YEARS_MS = 30 * 365 * 86_400_000


def at(after_ms: int) -> Command:
    """A command so long after the others."""
    return command(after_ms=after_ms)


def instants(found: clock.Sifted) -> tuple[list[int], list[int]]:
    """at_ms of what is taken and of what is refused."""
    return [one.at_ms for one in found.events], [one.at_ms for one, _ in found.refused]


def test_one_stamp_from_the_far_future_is_refused_and_named() -> None:
    """The message names the service, the field, both instants and the fleet."""
    near, far = at(60_000), at(YEARS_MS)
    found = clock.sift(builders.AT_MS, None, [far, near])
    assert ([near.at_ms], [far.at_ms]) == instants(found)
    assert found.suspect_ms is None
    ((_, error),) = found.refused
    assert "far_future" == error.code
    for word in ("command of chat, at_ms", "10950 days ahead", "fleet default"):
        assert word in str(error)


def test_a_jump_that_the_next_command_confirms_is_followed() -> None:
    """The loop stood still for a month: the first command is refused, the next one is the clock."""
    first, second, third = at(YEARS_MS), at(YEARS_MS + 15_000), at(YEARS_MS + 30_000)
    found = clock.sift(builders.AT_MS, None, [first, second, third])
    assert ([second.at_ms, third.at_ms], [first.at_ms]) == instants(found)
    one_by_one = clock.sift(builders.AT_MS, clock.sift(builders.AT_MS, None, [first]).suspect_ms, [second])
    assert ([second.at_ms], []) == instants(one_by_one)


def test_two_wrong_stamps_of_one_instant_do_not_confirm_each_other() -> None:
    """One writer's window carries many services' commands, all with its wrong clock."""
    assert ([], [at(YEARS_MS).at_ms] * 2) == instants(clock.sift(builders.AT_MS, None, [at(YEARS_MS), at(YEARS_MS)]))


def test_a_week_is_near_and_a_new_clock_takes_anything() -> None:
    """The bound is sharp, acknowledgements have no say, and the first command sets the clock."""
    edge, over = at(AHEAD_MAX_MS), at(AHEAD_MAX_MS + 1)
    assert ([edge.at_ms], [over.at_ms]) == instants(clock.sift(builders.AT_MS, None, [over, edge]))
    assert ([over.at_ms], []) == instants(clock.sift(0, None, [over]))
    late = msgspec.structs.replace(actuation("i", ActuationKind.READY), at_ms=YEARS_MS * 2)
    assert [late] == clock.sift(builders.AT_MS, None, [late]).events


def test_a_first_command_is_held_against_the_newest_fleet_record() -> None:
    """A clock that was never set takes what is up to a year after that, and what the next command confirms."""
    edge, over, next_ = at(FIRST_AHEAD_MAX_MS), at(FIRST_AHEAD_MAX_MS + 1), at(FIRST_AHEAD_MAX_MS + 15_000)
    assert ([edge.at_ms], [over.at_ms]) == instants(clock.sift(0, None, [over, edge], builders.AT_MS))
    assert ([next_.at_ms], [over.at_ms]) == instants(clock.sift(0, None, [over, next_], builders.AT_MS))
    assert ([over.at_ms], []) == instants(clock.sift(0, None, [over], 0))


def test_one_wrong_stamp_does_not_set_the_clock_of_a_new_fleet() -> None:
    """It goes to dead letters, and the service's next command is obeyed at its own instant."""
    seen = [msgspec.structs.replace(node(f"n{number}"), observed_at_ms=builders.AT_MS - number) for number in range(3)]
    driver = Driver(*seen)
    carried = driver.cycle(command(after_ms=YEARS_MS))
    assert ([builders.AT_MS + YEARS_MS], 0) == ([one.at_ms for one, _ in carried.refused], driver.state.now_ms)
    driver.cycle(command(after_ms=15_000))
    assert (builders.AT_MS + 15_000, 3) == (driver.state.now_ms, len(driver.instances()))


def test_a_cycle_keeps_its_clock_and_says_what_it_refused() -> None:
    """No start deadline runs out because of one record; the service's next command is obeyed."""
    driver = Driver(*(node(f"n{number}") for number in range(6)))
    driver.cycle(command())
    carried = driver.cycle(command(2, revision=2, after_ms=YEARS_MS))
    assert [builders.AT_MS + YEARS_MS] == [one.at_ms for one, _ in carried.refused]
    assert (builders.AT_MS, 3) == (driver.state.now_ms, len(driver.instances()))
    driver.cycle(command(2, revision=2, after_ms=15_000))
    assert (builders.AT_MS + 15_000, 6) == (driver.state.now_ms, len(driver.instances()))
