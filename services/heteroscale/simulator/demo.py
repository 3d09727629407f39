"""The demo: a real weekday through the whole loop, on the Kafka and Redis that this machine gives, or in this process.

Owns the run's prefix and what it leaves behind. Shows nothing itself: it is given where to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import yaml

from heteroscale.bus import catalogue, connect
from heteroscale.bus.log import Log
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts import codec
from heteroscale.contracts.errors import HeteroscaleError
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import Instant
from heteroscale.placement import app as placement
from heteroscale.placement.settings import PlacementSettings
from heteroscale.runtime.settings import load
from heteroscale.servers import ledger, probe, process
from heteroscale.servers.chain import Servers
from heteroscale.servers.process import ProcessId
from heteroscale.simulator.cluster import fleet
from heteroscale.simulator.cluster.faults import Fault
from heteroscale.simulator.cluster.world import Scene
from heteroscale.simulator.figures.view import View
from heteroscale.simulator.load.traffic import azure_weekday
from heteroscale.simulator.loop import crew
from heteroscale.simulator.loop.children import Children
from heteroscale.simulator.loop.crew import Processes, Tasks
from heteroscale.simulator.loop.embedded import Embedded
from heteroscale.simulator.play import Played, play

START: Final = "2024-05-15T00:50Z"  # the moment of the trace's first row, for the conversation service
PREFIX: Final = "heteroscale-demo-"
LAST: Final = "last"
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CAST: Final = (("chat.yaml", "conv", 6.0), ("code.yaml", "code", 48.0))  # spec, trace, load against the trace's
ANSWER_WITHIN_S: Final = 60.0
_NAME = re.compile(rf"{PREFIX}(\d+)\.{re.escape(Topic.TELEMETRY.value)}")


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What a demo leaves on a log and in an inventory (its address without a password), and the process that plays it."""

    prefix: str
    kafka: str
    redis: str | None
    owner: ProcessId


@dataclass(frozen=True, slots=True)
class Options:
    """How much of the day is played, and with what mishaps."""

    hours: float = 24.0
    seed: int = 1
    faults: tuple[Fault, ...] = ()
    report: Callable[[str], None] = lambda _line: None


@dataclass(frozen=True, slots=True)
class Shown:
    """A finished demo. `faults` is empty if everything really worked."""

    played: Played
    prefix: str
    faults: list[str]
    logs: Path | None


def scene(prefix: str, options: Options) -> Scene:
    """The cast: a chat and a code service on one mixed fleet."""
    specs = [codec.convert(ServiceSpec, yaml.safe_load(fleet.demo_text(name))) for name, _, _ in CAST]
    traffic = [azure_weekday(trace).scaled(scale).until(options.hours * 3600) for _, trace, scale in CAST]
    return Scene(
        specs=specs,
        traffic=traffic,
        nodes=fleet.parse(fleet.demo_text("fleet.yaml"), "fleet.yaml"),
        start_ms=Instant.parse(START).ms,
        prefix=prefix,
        seed=options.seed,
        faults=options.faults,
    )


async def run(servers: Servers, options: Options, show: Callable[[View], None]) -> Shown:
    """Play the demo on these servers. An interrupt ends it cleanly: no process of ours is left."""
    with interruptible():
        if servers.kafka is None:
            return await _embedded(options, show)
        return await _on_kafka(servers, options, show)


async def _embedded(options: Options, show: Callable[[View], None]) -> Shown:
    log, parts, prefix = MemoryLog(), Embedded(), f"{PREFIX}1"
    played = await play(scene(prefix, options), log, Tasks(log, prefix, parts.services()), show, timeout_s=ANSWER_WITHIN_S)
    nodes = played.world.scene.nodes
    leaks = crew.leaks(await parts.inventory.read(nodes[0].fleet))
    return Shown(played, prefix, played.closing.faults + leaks, None)


async def _on_kafka(servers: Servers, options: Options, show: Callable[[View], None]) -> Shown:
    log = await connect.open_log(msgspec.structs.replace(load(BusSettings), kafka=servers.kafka))  # with the security of the environment
    try:
        await tidy(log, servers, options.report)
        prefix = await fresh_prefix(log, _last())
        options.report(f"topics are under the prefix {prefix}")
        mine = Left(prefix=prefix, kafka=servers.kafka or "", redis=_shown(servers.redis), owner=process.myself())
        _remember(mine)
        if servers.redis is not None:  # a demo of another folder may have had this number and left its books
            await _forget_fleet(servers.redis, prefix)
        here = scene(prefix, options)
        logs = _folder() / prefix
        with Children(environment(servers, prefix), logs) as children:
            played = await play(here, log, Processes(children, (*crew.SERVICES, "actuator")), show, timeout_s=ANSWER_WITHIN_S)
        return Shown(played, prefix, played.closing.faults + await _leaks(servers, here), logs)
    finally:
        await log.close()


async def _leaks(servers: Servers, here: Scene) -> list[str]:
    """The inventory's accounts, read from Redis. The one in a placement process's memory went with it."""
    if servers.redis is None:
        return []
    inventory = placement.inventory_for(msgspec.structs.replace(load(PlacementSettings), url=servers.redis), here.prefix)
    try:
        return crew.leaks(await inventory.read(here.nodes[0].fleet))
    finally:
        await inventory.close()


def environment(servers: Servers, prefix: str) -> Mapping[str, str]:
    """What the services are told, beside what they inherit."""
    return {
        "HETEROSCALE_KAFKA": servers.kafka or "",
        "HETEROSCALE_REDIS": servers.redis or "",
        "HETEROSCALE_PREFIX": prefix,
        "HETEROSCALE_TICKER": "off",
        "HETEROSCALE_ACTUATOR_ANSWERS": "silent",  # the world acknowledges
    }


async def fresh_prefix(log: Log, last: int = 0) -> str:
    """`heteroscale-demo-N` with the first N above `last` that no topic on this log uses or an earlier demo of this folder used."""
    names = await log.describe_topics()
    used = [int(found[1]) for name in names if (found := _NAME.fullmatch(name))]
    return f"{PREFIX}{max([*used, last]) + 1}"


async def tidy(log: Log, servers: Servers, report: Callable[[str], None]) -> None:
    """Delete what earlier demos of this folder left on these servers, unless they still run. Nothing else is touched."""
    for path in sorted(_folder().glob("*.json")):
        left = msgspec.json.decode(path.read_bytes(), type=Left)
        if left.kafka != servers.kafka or process.runs(left.owner):
            continue
        deleted = await catalogue.delete(log, left.prefix)
        if servers.redis is not None and left.redis == _shown(servers.redis):
            await _forget_fleet(servers.redis, left.prefix)
        path.unlink()
        if deleted:
            report(f"deleted the topics of {left.prefix}")


async def _forget_fleet(url: str, prefix: str) -> None:
    """Delete the books of an earlier demo's fleet. A Redis that does not answer keeps them: the run that follows will say so."""
    from heteroscale.placement.inventory.redis import RedisInventory, client_of  # noqa: PLC0415 - the client is needed for this alone

    nodes = fleet.parse(fleet.demo_text("fleet.yaml"), "fleet.yaml")
    inventory = RedisInventory(client_of(msgspec.structs.replace(load(PlacementSettings), url=url)), prefix=prefix)
    try:
        with contextlib.suppress(HeteroscaleError):
            await inventory.forget(nodes[0].fleet)
    finally:
        await inventory.close()


def _shown(url: str | None) -> str | None:
    """An address that may stand in a file."""
    return None if url is None else probe.without_password(url)


def _folder() -> Path:
    folder = ledger.cache_folder() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _last() -> int:
    """The highest number that a demo of this folder has used: a deleted topic's name is not used again at once."""
    path = _folder() / LAST
    return int(path.read_text()) if path.exists() else 0


def _remember(left: Left) -> None:
    (_folder() / LAST).write_text(left.prefix.removeprefix(PREFIX))
    (_folder() / f"{left.prefix}.json").write_bytes(msgspec.json.encode(left))


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP cancels the running task; later ones are ignored while it cleans up."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told: list[bool] = []

    def cancel() -> None:
        if task is not None and not told:
            told.append(True)
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, cancel)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
