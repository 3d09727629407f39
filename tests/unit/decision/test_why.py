"""`why`: a sentence for every hold, and the time of the next thing that would change it."""

from __future__ import annotations

from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.units import instant_text
from heteroscale.decision import why
from heteroscale.decision.law.setting import LIVE
from heteroscale.decision.law.verdict import HOLD_REASONS
from support import lawbook
from support.lawbook import HOP_MS, START_MS, Run


def at(window: int, after_ms: int = 0) -> str:
    """An instant as sentences write it."""
    return instant_text(START_MS + window * HOP_MS + after_ms)


def told(run: Run) -> str:
    """What is said of the last decision."""
    return why.explain(run.spec, run.state.record())


def test_stabilizing_says_until_when() -> None:
    """The newest recommendation that disagrees, plus the stabilisation window."""
    run = Run(lawbook.spec(behavior={"scale_in": {"stabilization": "300s"}}))
    run.window(decode=10, load=10.0)
    run.window(decode=10, load=4.0)
    assert Reason.STABILIZING is run.decisions[-1].reason
    assert f"scale-in waits for stabilisation until {at(1, 300_000)}" in told(run)


def test_what_is_said_comes_true() -> None:
    """At the instant that `why` names, and not before, the scale-in happens."""
    run = Run(lawbook.spec(behavior={"scale_in": {"stabilization": "300s"}}))
    run.window(decode=10, load=10.0)
    run.window(decode=10, load=4.0)
    promised = told(run).split("until ")[1].rstrip(".")
    while run.decisions[-1].action == "hold":
        run.window(decode=10, load=4.0)
    assert promised == instant_text(run.decisions[-1].at_ms)


def test_cooldown_says_until_when() -> None:
    """The end of the cooldown that holds."""
    run = Run(lawbook.spec(behavior={"scale_out": {"cooldown": "60s"}}))
    run.window(decode=4, load=4.0)
    run.window(decode=4, load=5.0)
    run.window(decode=5, load=7.0)
    assert f"scale-out waits for cooldown until {at(2, 60_000)}" in told(run)


def test_observing_says_when_what_drains_is_let_go() -> None:
    """The end of `observe`."""
    run = Run(lawbook.spec(behavior={"scale_in": {"soft": {"observe": "180s"}}}))
    run.window(decode=10, load=10.0)
    for _ in range(2):
        run.window(decode=10, load=8.0)
    run.window(decode=8, draining=2, load=8.0)
    assert f"what drains is let go at {at(4, 180_000)}" in told(run)


def test_cold_start_says_when_judging_begins() -> None:
    """One full window after the adoption."""
    run = Run(lawbook.spec(), setting=LIVE)
    run.window(decode=4, load=4.0)
    assert f"judging begins at {at(1, 60_000)}" in told(run)


def test_steady_says_where_the_signal_would_move_it() -> None:
    """The band of the first signal in its own unit."""
    run = Run(lawbook.spec())
    run.window(decode=4, load=4.0)
    assert "decode_tps of decode above 4,200 scales out, below 3,400 in" in told(run)


def test_every_hold_has_a_next_thing() -> None:
    """No hold is left without a word on what would change it."""
    assert HOLD_REASONS - {Reason.STEADY} == set(why._AFTER_HOLD)


def test_shadow_tells_whether_it_could_be_placed() -> None:
    """The answer to the dry run is part of the sentence."""
    run = Run(lawbook.spec(mode="shadow"), setting=LIVE)
    for _ in range(5):
        run.window(decode=4, load=8.0)
    run.give(lawbook.placement(1, seq=1, counts={}, dry_run=True))
    run.window(decode=4, load=8.0)
    assert "could have been placed" in told(run)
