"""What a service is given to run: the log, the prefix, health, metrics, and the word to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from heteroscale.bus.log import Log
from heteroscale.bus.settings import BusSettings
from heteroscale.runtime.health import Health
from heteroscale.runtime.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Context:
    """Handed by the process (or a test, or the simulator) to `serve(context, settings)` of each service."""

    log: Log
    prefix: str
    health: Health
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    metrics: Metrics = field(default_factory=Metrics)
    bus: BusSettings | None = None  # where the log is, for a service that brings its own client (signals, Faust)
    documents: dict[str, Callable[[Mapping[str, str]], object]] = field(default_factory=dict)
    """JSON documents over HTTP, by path: a service puts its own here, the process serves them."""
