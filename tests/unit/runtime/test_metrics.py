"""The catalogue of metrics and the registry of a process."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from heteroscale.runtime import metrics
from heteroscale.runtime.metrics import Kind, Metrics


def test_names_follow_prometheus_and_every_metric_is_explained() -> None:
    """A namespace, base units last, counters end in _total; unit and meaning are never empty."""
    for name, metric in metrics.CATALOGUE.items():
        assert re.fullmatch(r"heteroscale_[a-z0-9_]+", name)
        assert (metric.kind is Kind.COUNTER) == name.endswith("_total")
        assert metric.unit
        assert metric.meaning


def test_the_document_lists_every_metric() -> None:
    """One row each, below two rows of head."""
    document = metrics.document()
    assert len(metrics.CATALOGUE) + 2 == len(document.splitlines())
    assert all(f"`{name}`" in document for name in metrics.CATALOGUE)


def test_values_of_one_process_are_its_own() -> None:
    """Two registries share nothing; labels make series; a forgotten series is gone from the page."""
    one, other = Metrics(), Metrics()
    one.add(metrics.BUS_APPENDED, 3, topic="telemetry.v1")
    one.add(metrics.BUS_APPENDED, 2, topic="telemetry.v1")
    one.set(metrics.BUS_LAG, 7, topic="telemetry.v1", partition="4")
    one.observe(metrics.BUS_APPEND_SECONDS, 0.2)
    assert (5, 0) == (one.value(metrics.BUS_APPENDED, topic="telemetry.v1"), other.value(metrics.BUS_APPENDED, topic="telemetry.v1"))
    assert 1 == one.value(metrics.BUS_APPEND_SECONDS)
    families = {family.name for family in text_string_to_metric_families(one.page().decode())}
    assert {"heteroscale_bus_appended", "heteroscale_bus_lag", "heteroscale_bus_append_seconds"} == families
    one.forget(metrics.BUS_LAG, topic="telemetry.v1", partition="4")
    assert b'partition="4"' not in one.page()
