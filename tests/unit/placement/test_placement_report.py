"""What the service counts: every transition with its reason, and how long starts take by role."""

from __future__ import annotations

import asyncio

from heteroscale.contracts.actuations import ActuationKind
from heteroscale.placement.report import Report
from heteroscale.runtime import metrics
from heteroscale.runtime.metrics import Metrics
from support.gangs import node
from support.placement_driver import Driver, command


def test_transitions_are_counted_by_state_and_reason() -> None:
    """Three births, three starts of a minute each, one failure and its replacement."""
    registry = Metrics()
    driver = Driver(*(node(f"n{at}") for at in range(6)))
    cycles = [driver.cycle(command())]
    cycles.append(driver.cycle(command(after_ms=60_000)))
    cycles.append(driver.acknowledge(ActuationKind.READY))
    failed = next(one.id for one in driver.instances() if one.role == "prefill")
    cycles.append(driver.acknowledge(ActuationKind.FAILED, failed))

    async def told() -> None:
        report = Report(registry)
        for number, carried in enumerate(cycles):
            report.cycle("default", number, carried, 0.001)

    asyncio.run(told())
    found = {
        (sample.labels["before"], sample.labels["after"], sample.labels["reason"]): sample.value
        for metric in registry.registry.collect()
        for sample in metric.samples
        if sample.name == metrics.PLACEMENT_TRANSITIONS.name
    }
    assert {("none", "reserved", "placed"): 4, ("reserved", "ready", "acknowledged"): 3, ("ready", "failed", "failed"): 1} == found
    assert 1 == registry.value(metrics.PLACEMENT_START_SECONDS, role="prefill")
    assert 60.0 == registry.registry.get_sample_value(f"{metrics.PLACEMENT_START_SECONDS.name}_sum", {"role": "prefill"})
