"""Every metric there is: name, kind, unit, meaning and labels. `python -m heteroscale.runtime.metrics` prints them as a table.

A metric is declared once, here, in the section of its owner; code refers to the declaration, never to a name in quotes. Labels are
bounded by configuration or by an enum (service, topic, reason code); ids never are.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call] # a second series a counter that nothing of ours reads

NAMESPACE: Final = "heteroscale"
SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Kind(enum.StrEnum):
    """Prometheus' kinds, as far as they are used."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """A declaration. `unit` is what one step of the value is."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS_BUCKETS


CATALOGUE: Final[dict[str, Metric]] = {}


def _declare(metric: Metric) -> Metric:
    if metric.name in CATALOGUE:
        raise ValueError(f"{metric.name} is declared twice")
    CATALOGUE[metric.name] = metric
    return metric


def _counter(name: str, unit: str, meaning: str, *labels: str) -> Metric:
    return _declare(Metric(f"{NAMESPACE}_{name}_total", Kind.COUNTER, unit, meaning, labels))


def _gauge(name: str, unit: str, meaning: str, *labels: str) -> Metric:
    return _declare(Metric(f"{NAMESPACE}_{name}", Kind.GAUGE, unit, meaning, labels))


def _histogram(name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = SECONDS_BUCKETS) -> Metric:
    return _declare(Metric(f"{NAMESPACE}_{name}_seconds", Kind.HISTOGRAM, "seconds", meaning, labels, buckets))


# bus
BUS_APPENDED = _counter("bus_appended", "records", "Records appended and acknowledged by the log", "topic")
BUS_APPEND_SECONDS = _histogram("bus_append", "From handing a batch to the log until it is durable")
BUS_POLLED = _counter("bus_polled", "records", "Records handed out by readers and group members", "topic")
BUS_LAG = _gauge("bus_lag", "records", "Records behind the end of a partition that this process holds", "topic", "partition")
BUS_ERRORS = _counter("bus_errors", "errors", "Log operations that failed, by kind of error", "kind")
BUS_REBALANCES = _counter("bus_rebalances", "rebalances", "Assignments received by a group member", "group")
DEAD_LETTERS = _counter("dead_letters", "records", "Records or samples put in dead-letters.v1", "topic", "stage", "code")

# runtime
BUILD_INFO = _gauge("build_info", "1", "The version that runs, as a label", "version", "process")
READY = _gauge("ready", "0 or 1", "Whether every readiness condition holds")
RESTARTS = _counter("service_restarts", "restarts", "Times a service was started again after something it needs was away", "service")
TICKS = _counter("ticks", "records", "Tick records written to telemetry.v1")
TICK_LATENESS = _histogram("tick_lateness", "How late a tick was written after its due time")

# placement
PLACEMENT_CYCLE_SECONDS = _histogram("placement_cycle", "One cycle of one fleet: plan, reserve, publish")
PLACEMENT_GANGS = _counter("placement_gangs", "gangs", "Gangs that the inventory applied")
PLACEMENT_REFUSED = _counter("placement_refused", "gangs", "Gangs that the inventory refused: conflict or fence", "why")
PLACEMENT_TRANSITIONS = _counter(
    "placement_transitions", "instances", "Instances that went from one state to another, and why", "before", "after", "reason"
)
PLACEMENT_IGNORED = _counter("placement_ignored", "records", "Records that changed nothing: stale, repeated, late, unknown", "what")
PLACEMENT_TAKEOVERS = _counter("placement_takeovers", "takeovers", "Fleets taken over, read or rebuilt", "kind")
PLACEMENT_GPUS = _gauge(
    "placement_gpus", "GPUs", "GPUs of a fleet: free, reserved, foreign, withheld (on nodes that take nothing)", "fleet", "state"
)
PLACEMENT_DISAGREEMENTS = _gauge(
    "placement_disagreements", "findings", "What the reconciler saw: inventory, placements.v1 and actuations.v1 disagree", "fleet", "kind"
)
PLACEMENT_START_SECONDS = _histogram(
    "placement_start", "From reserved to ready, by the commands' time", "role", buckets=(5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
)

# signals
SIGNALS_WINDOWS = _counter("signals_windows", "windows", "Windows closed and published")
SIGNALS_LATE = _counter("signals_late_samples", "samples", "Samples below the watermark when they arrived")
SIGNALS_TICK = _gauge("signals_tick_seconds", "seconds since the epoch", "Newest tick in force, per partition held", "partition")
SIGNALS_INSTANCES = _gauge("signals_instances", "instances", "Instances remembered, per partition held", "partition")
SIGNALS_BYTES = _gauge("signals_memory_bytes", "bytes", "Memory of the sample columns, per partition held", "partition")
SIGNALS_CLOSE_SECONDS = _histogram("signals_close", "From closing windows until they are durable on signals.v1")

# telemetry
EXPORT_SCRAPES = _counter("export_scrapes", "pages", "Pages asked for, by what came of it", "outcome")
EXPORT_SECONDS = _histogram("export_scrape", "From asking for a page until it is read")
EXPORT_TARGETS = _gauge("export_targets", "engines", "Engines that the exporter scrapes")
EXPORT_DROPPED = _gauge("export_dropped_samples", "samples", "Samples dropped because the log was away for too long")

# actuation
ASSIGNMENTS = _counter("actuation_assignments", "records", "Assignments handed to the actuator; skipped are repeated or older", "outcome")
CARRIED_OUT = _counter("actuation_carried_out", "assignments", "Assignments carried out (done) and tries put off (retried)", "outcome")
SCALED = _counter("actuation_scaled", "changes", "Scale targets changed in a cluster, by direction", "direction")
ACKNOWLEDGEMENTS = _counter("actuation_acknowledgements", "records", "Acknowledgements written, by kind", "kind")

# decision
DECISIONS = _counter(
    "decisions", "decisions", "Decisions by action and reason; a hold's reason says what held it", "service", "action", "reason"
)
DESIRED_REPLICAS = _gauge("desired_replicas", "instances", "Replicas that the last decision leaves commanded", "service", "role")
DRAINING_REPLICAS = _gauge("draining_replicas", "instances", "Replicas on their way out after the last decision", "service", "role")
SERVING_REPLICAS = _gauge("serving_replicas", "instances", "Replicas that served in the last window", "service", "role")
PENDING_REPLICAS = _gauge("pending_replicas", "instances", "Replicas commanded that did not serve in the last window", "service", "role")
HOLD_AGE = _gauge("hold_age_seconds", "seconds", "How long the running hold has lasted, in window time", "service", "reason")
GUARD_EPISODES = _gauge("guard_episodes", "episodes", "Latency alarms since the service's state began", "service")
DIRECTION_CHANGES_HOUR = _gauge("direction_changes_hour", "changes", "Changes of direction in the last hour of window time", "service")
DECIDE_SECONDS = _histogram("decide", "From a batch of windows in hand until its commands are durable")


class Metrics:
    """The metrics of one process. Each instance is a registry of its own, so that tests and services never share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._collectors: dict[str, prometheus_client.Counter | prometheus_client.Gauge | prometheus_client.Histogram] = {}

    def add(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        """Count up."""
        collector = self._collector(metric)
        assert isinstance(collector, prometheus_client.Counter)  # noqa: S101 - narrows the type for mypy
        (collector.labels(**labels) if metric.labels else collector).inc(amount)

    def set(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        collector = self._collector(metric)
        assert isinstance(collector, prometheus_client.Gauge)  # noqa: S101 - narrows the type for mypy
        (collector.labels(**labels) if metric.labels else collector).set(value)

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Add an observation to a histogram."""
        collector = self._collector(metric)
        assert isinstance(collector, prometheus_client.Histogram)  # noqa: S101 - narrows the type for mypy
        (collector.labels(**labels) if metric.labels else collector).observe(value)

    def forget(self, metric: Metric, /, **labels: str) -> None:
        """Drop one series of a gauge (a partition that went to another worker)."""
        collector = self._collectors.get(metric.name)
        if collector is not None:
            collector.remove_by_labels(dict(labels))

    def value(self, metric: Metric, /, **labels: str) -> float:
        """The current value (of a histogram: its count); 0 where nothing was recorded."""
        name = f"{metric.name}_count" if metric.kind is Kind.HISTOGRAM else metric.name
        return self.registry.get_sample_value(name, labels) or 0.0

    def page(self) -> bytes:
        """The text that Prometheus scrapes."""
        return prometheus_client.generate_latest(self.registry)

    def _collector(self, metric: Metric) -> prometheus_client.Counter | prometheus_client.Gauge | prometheus_client.Histogram:
        collector = self._collectors.get(metric.name)
        if collector is None:
            collector = self._collectors[metric.name] = self._create(metric)
        return collector

    def _create(self, metric: Metric) -> prometheus_client.Counter | prometheus_client.Gauge | prometheus_client.Histogram:
        if metric.kind is Kind.COUNTER:
            return prometheus_client.Counter(metric.name, metric.meaning, metric.labels, registry=self.registry)
        if metric.kind is Kind.GAUGE:
            return prometheus_client.Gauge(metric.name, metric.meaning, metric.labels, registry=self.registry)
        return prometheus_client.Histogram(metric.name, metric.meaning, metric.labels, registry=self.registry, buckets=metric.buckets)


def document(catalogue: Mapping[str, Metric] | None = None) -> str:
    """The catalogue as a Markdown table."""
    rows = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    rows += [_row(metric) for metric in (CATALOGUE if catalogue is None else catalogue).values()]
    return "\n".join(rows)


def _row(metric: Metric) -> str:
    labels = ", ".join(metric.labels) or "none"
    return f"| `{metric.name}` | {metric.kind.value} | {metric.unit} | {labels} | {metric.meaning} |"


if __name__ == "__main__":
    print(document())  # noqa: T201 - the table is this command's output
