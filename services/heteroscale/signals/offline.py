"""Windows from telemetry that lies in files: the same aggregator, each line a record, the line number its offset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.signals.aggregator import PartitionAggregator, Refused


class Refusal(NamedTuple):
    """A line, or one sample of it, that could not be used; `line` counts from 0."""

    line: int
    code: str
    message: str


Event: TypeAlias = SignalWindow | Refusal


def compute(lines: Iterable[bytes], specs: Sequence[ServiceSpec]) -> Iterator[Event]:
    """Windows as ticks close them, and what was refused, in the order in which they come about.

    Lines are telemetry.v1 values, taken as one partition (0). A spec without `applied_at_ms` is in force from the beginning.
    """
    aggregator = PartitionAggregator(0)
    for spec in specs:
        aggregator.learn(spec.service, spec, 0)
    for line, payload in enumerate(lines):
        outcome = aggregator.handle(line, payload)
        yield from map(_refusal, outcome.refused)
        yield from outcome.windows
    yield from map(_refusal, aggregator.drain())


def _refusal(refused: Refused) -> Refusal:
    return Refusal(refused.offset, refused.code, refused.message)
