"""Consumer groups carry the prefix: loops under different prefixes on one Kafka share no partitions and no offsets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from heteroscale.bus import catalogue
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.settings import BusSettings
from heteroscale.decision import app as decision
from heteroscale.decision.settings import DecisionSettings
from heteroscale.placement import app as placement
from heteroscale.placement.settings import PlacementSettings
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.settings import Switch
from heteroscale.signals import app as signals
from heteroscale.signals import worker
from heteroscale.signals.settings import SignalsSettings

SERVICES: dict[str, Callable[[Context], Awaitable[None]]] = {
    "signals": lambda context: signals.serve(context, SignalsSettings(ticker=Switch.OFF)),
    "decision": lambda context: decision.serve(context, DecisionSettings()),
    "placement": lambda context: placement.serve(context, PlacementSettings()),
}


class Joining(MemoryLog):
    """Remembers the groups that were joined."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: list[tuple[str, list[str]]] = []

    async def join(self, group: str, topics: Iterable[str], **hooks: Any) -> Any:
        """The log's own."""
        named = list(topics)
        self.joined.append((group, named))
        return await super().join(group, named, **hooks)


@pytest.mark.parametrize("service", sorted(SERVICES))
async def test_a_group_is_named_below_the_prefix(service: str) -> None:
    """`PREFIX.SERVICE`, and it reads topics of that prefix alone."""
    log = Joining()
    for prefix in ("one", "two"):
        await catalogue.create(log, prefix)
        context = Context(log=log, prefix=prefix, health=Health())
        running = asyncio.ensure_future(SERVICES[service](context))
        async with asyncio.timeout(10):
            while not (log.joined and log.joined[-1][0].startswith(prefix)):
                await asyncio.sleep(0.01)
        context.stop.set()
        await running
    assert [f"one.{service}", f"two.{service}"] == [group for group, _ in log.joined]
    assert all(topic.startswith(f"{group.partition('.')[0]}.") for group, topics in log.joined for topic in topics)


def test_faust_gets_the_same_group(tmp_path: Any) -> None:
    """Its consumer group is its app's id."""
    bus = BusSettings(kafka="127.0.0.1:1", prefix="one")
    found = signals.build_app(worker.group_of(bus.prefix), bus, SignalsSettings(), tmp_path)
    assert "one.signals" == found.conf.id
