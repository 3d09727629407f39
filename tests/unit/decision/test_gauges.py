"""Metrics of decisions: counts by role, the age of the running hold under its reason alone, changes of direction in an hour."""

from __future__ import annotations

import pytest

from heteroscale.contracts.errors import Rejected
from heteroscale.decision import gauges
from heteroscale.decision.gauges import Gauges
from heteroscale.runtime import metrics
from heteroscale.runtime.metrics import Metrics
from support import lawbook
from support.lawbook import Run


def test_counts_and_hold_age_follow_the_decisions() -> None:
    """Desired counts are those after; a hold ages under its reason, and its series goes when the reason does."""
    run, registry = Run(lawbook.spec(behavior={"scale_in": {"stabilization": "60s"}})), Metrics()
    seen = Gauges(registry)
    for load in (4.0, 4.0, 4.0, 2.0, 2.0):
        decision = run.window(decode=4, load=load)
        seen.decided(run.state, decision)
    assert 4.0 == registry.value(metrics.DESIRED_REPLICAS, service="chat", role="decode")
    assert 15.0 == registry.value(metrics.HOLD_AGE, service="chat", reason="stabilizing")
    assert 'reason="steady"' not in next(line for line in registry.page().decode().splitlines() if line.startswith("heteroscale_hold_age"))
    assert 3.0 == registry.value(metrics.DECISIONS, service="chat", action="hold", reason="steady")


def test_direction_changes_of_the_last_hour() -> None:
    """Out and in again is one change; after an hour of window time it is forgotten."""
    run, registry = Run(lawbook.spec()), Metrics()
    seen = Gauges(registry)
    for load in [4.0, 8.0, *[4.0] * 4]:
        decision = run.window(decode=8 if len(run.decisions) > 1 else 4, load=load)
        seen.decided(run.state, decision)
    assert 1.0 == registry.value(metrics.DIRECTION_CHANGES_HOUR, service="chat")
    for _ in range(245):
        decision = run.window(decode=4, load=4.0)
        seen.decided(run.state, decision)
    assert 0.0 == registry.value(metrics.DIRECTION_CHANGES_HOUR, service="chat")


def test_desired_names_what_there_is() -> None:
    """All services without a query; an unknown service or role is refused by name."""
    run = Run(lawbook.spec())
    run.window(decode=4, load=4.0)
    states = {"chat": run.state}
    whole = gauges.desired(states, {})
    assert isinstance(whole, dict)
    assert {"chat"} == set(whole["services"])
    for query in ({"service": "nobody"}, {"service": "chat", "role": "router"}):
        with pytest.raises(Rejected):
            gauges.desired(states, query)
