"""How a machine gets Kafka and Redis, first match wins: given, already up, containers, native, embedded.

The two are chosen apart from each other. Embedded means none: the address is null, and `how` and the report say so plainly.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, ModuleType, TracebackType
from typing import Final, Literal, Self, TypeAlias

import msgspec

from heteroscale.servers import docker, kafka, ledger, probe, process, redis
from heteroscale.servers.failure import PortTaken, ServerFailure
from heteroscale.servers.launch import Place, Report
from heteroscale.servers.ledger import Entry

Name: TypeAlias = Literal["kafka", "redis"]
NAMES: Final[tuple[Name, Name]] = ("kafka", "redis")
VARIABLE: Final = MappingProxyType({"kafka": "HETEROSCALE_KAFKA", "redis": "HETEROSCALE_REDIS"})
_NATIVE: Final = MappingProxyType({"kafka": kafka, "redis": redis})
_ATTEMPTS = 3  # another process may take a free port between looking and listening


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`lasting` servers stay when the caller ends. A null port is any free one. `reuse` takes what `servers up` started.

    `paired` starts no Redis where there is no Kafka: who plays in one process keeps the inventory there too.
    """

    lasting: bool = False
    reuse: bool = True
    paired: bool = False
    kafka_port: int | None = None
    redis_port: int | None = None
    report: Report = lambda _line: None


class Servers(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses (null: embedded) and how each was had: given, running, docker, native, or `embedded: why`."""

    kafka: str | None
    redis: str | None
    how: dict[str, str]
    started: tuple[Entry, ...] = ()

    @property
    def real(self) -> bool:
        """Whether both are real servers."""
        return self.kafka is not None and self.redis is not None

    def close(self) -> None:
        """Stop what this call started, unless it is to last. May be called again."""
        for entry in reversed(self.started):
            if not entry.lasting:
                end(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def provide(kafka: str | None = None, redis: str | None = None, options: Options | None = None) -> Servers:
    """Kafka and Redis for this machine; given addresses win, then the environment's. Raises ServerFailure, leaving nothing running."""
    wanted = options or Options()
    for orphan in ledger.orphans():
        end(orphan)
    found: dict[str, tuple[str | None, str]] = {}
    started: list[Entry] = []
    try:
        for name, given in zip(NAMES, (kafka, redis), strict=True):
            address = given or os.environ.get(VARIABLE[name]) or None
            if address is not None:
                found[name] = (_reachable(name, address), "given")
                continue
            if wanted.paired and name == "redis" and found["kafka"][0] is None:
                found[name] = (None, "not needed: there is no Kafka")
                continue
            entry, how = _find_or_start(name, wanted)
            found[name] = (entry.address if entry else None, how)
            if entry is not None and how != "running":
                started.append(entry)
    except BaseException:
        for entry in reversed(started):
            end(entry)
        raise
    return Servers(
        kafka=found["kafka"][0],
        redis=found["redis"][0],
        how={name: how for name, (_, how) in found.items()},
        started=tuple(started),
    )


def running() -> dict[str, Entry]:
    """What `servers up` left running, by name."""
    return {entry.name: entry for entry in ledger.entries() if entry.lasting and alive(entry)}


def alive(entry: Entry) -> bool:
    """Whether a recorded server still runs."""
    if entry.container is not None:
        return docker.runs(entry.container)
    return entry.process is not None and process.runs(entry.process)


def answers(entry: Entry) -> bool:
    """Whether it takes requests."""
    ask = probe.kafka_answers if entry.name == "kafka" else probe.redis_answers
    return ask(probe.LOOPBACK, entry.port)


def end(entry: Entry, *, delete_data: bool | None = None) -> bool:
    """Stop a server and forget it; its data goes too unless it is lasting. False if it was not running any more."""
    stopped = _stop(entry)
    if delete_data if delete_data is not None else not entry.lasting:
        shutil.rmtree(entry.data, ignore_errors=True)
    ledger.remove(entry)
    return stopped


def _stop(entry: Entry) -> bool:
    if entry.container is not None:
        return docker.stop(entry.container)
    return entry.process is not None and process.stop(entry.process)


def _find_or_start(name: Name, options: Options) -> tuple[Entry | None, str]:
    if options.reuse and (up := running().get(name)) is not None:
        return up, "running"
    reasons: list[str] = []
    for how, module, start in _ways(name):
        reason: str | None = module.unavailable()
        if reason is None:
            return _start(name, start, options), how
        reasons.append(reason)
    why = "; ".join(reasons)
    options.report(f"embedded {'log' if name == 'kafka' else 'inventory'}: nothing survives this process ({why})")
    return None, f"embedded: {why}"


def _ways(name: Name) -> list[tuple[str, ModuleType, Callable[[Place, Report], Entry]]]:
    in_container = docker.start_kafka if name == "kafka" else docker.start_redis
    native = _NATIVE[name]
    return [("docker", docker, in_container), ("native", native, native.start)]


def _start(name: Name, start: Callable[[Place, Report], Entry], options: Options) -> Entry:
    port = options.kafka_port if name == "kafka" else options.redis_port
    for attempt in range(1, _ATTEMPTS + 1):
        place = Place(port=port, folder=_folder(name, options), owner=None if options.lasting else process.myself())
        try:
            return start(place, options.report)
        except PortTaken:
            if port is not None or attempt == _ATTEMPTS:
                raise
        except BaseException:
            if not options.lasting:
                shutil.rmtree(place.folder, ignore_errors=True)
            raise
    raise AssertionError


def _folder(name: Name, options: Options) -> Path:
    base = ledger.servers_folder()
    return base / name if options.lasting else base / f"{name}-{os.getpid()}-{probe.free_port()}"


def _reachable(name: Name, address: str) -> str:
    """The address, once something takes a connection there. Raises ServerFailure."""
    shown = probe.without_password(address) if name == "redis" else address
    try:
        answers = probe.kafka_connects(address) if name == "kafka" else probe.redis_connects(address)
    except ValueError as error:
        raise ServerFailure(str(error), cure=f"correct or unset {VARIABLE[name]}") from error
    if not answers:
        raise ServerFailure(f"nothing answers at {shown}", cure=f"start {name} there, or correct or unset {VARIABLE[name]}")
    return address
