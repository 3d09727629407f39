"""`heteroscale doctor`: what is reachable, in which version, what is wrong with it, and what to do."""

from __future__ import annotations

import asyncio
import enum
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Final

import click
import msgspec

from heteroscale.bus import catalogue
from heteroscale.bus.log import Log, TopicLayout
from heteroscale.cli import output
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import Connection, connection_of, connection_options, json_option
from heteroscale.contracts.errors import HeteroscaleError, Rejected
from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import CATALOGUE, Topic
from heteroscale.contracts.units import Duration
from heteroscale.runtime import clock, settings
from heteroscale.servers import docker, kafka
from heteroscale.servers import redis as redis_server

PYTHON_LEAST: Final = (3, 11)
STALE_MS: Final = 60_000  # a tick comes every second; a minute without one means that nobody ticks
REDIS_PATIENCE_MS: Final = 3_000


class Verdict(enum.StrEnum):
    """How a check came out. Only `fail` makes the exit code 1."""

    OK = "ok"
    NOTE = "note"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """One check: what was looked at, how it is, and what to do about it."""

    check: str
    verdict: Verdict
    found: str
    cure: str | None = None


@click.command(
    epilog="""\b
Examples:
  heteroscale doctor
  heteroscale doctor --kafka broker:9092 --json""",
)
@json_option
@connection_options
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """What is reachable, what is wrong, what to do. Exit code 1 if something must be done first."""
    findings = asyncio.run(examine(connection_of(ctx)))
    for finding in findings:
        if as_json:
            output.emit(finding)
        else:
            click.echo(
                f"{finding.verdict.value:5} {finding.check}: {finding.found}" + (f"\n      -> {finding.cure}" if finding.cure else "")
            )
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        ctx.exit(1)


async def examine(connection: Connection) -> list[Finding]:
    """All checks, in the order in which one would repair."""
    findings = [_python(), *_tools(), *_settings()]
    return [*findings, *await _log(connection), *await _redis(connection)]


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info[:2] < PYTHON_LEAST:
        return Finding("python", Verdict.FAIL, version, "install Python 3.11 or newer")
    return Finding("python", Verdict.OK, f"{version}, heteroscale {metadata.version('heteroscale')}")


def _tools() -> list[Finding]:
    """What `servers up` could use here."""
    findings: list[Finding] = []
    engine = docker.unavailable()
    for name, native in (("kafka", kafka.unavailable()), ("redis", redis_server.unavailable())):
        ways = [way for way, missing in (("containers", engine), ("native processes", native)) if missing is None]
        if ways:
            findings.append(Finding(f"servers up ({name})", Verdict.OK, f"by {ways[0]}"))
        else:
            findings.append(Finding(f"servers up ({name})", Verdict.NOTE, f"cannot start one: {native}", f"set HETEROSCALE_{name.upper()}"))
    return findings


def _settings() -> list[Finding]:
    findings: list[Finding] = []
    for kind in (settings.BusSettings, settings.RedisSettings, settings.ProcessSettings):
        try:
            settings.load(kind)
        except Rejected as error:
            findings.append(Finding("settings", Verdict.FAIL, str(error), "correct or unset it"))
    return findings or [Finding("settings", Verdict.OK, "make sense; heteroscale run all --settings prints them")]


async def _log(connection: Connection) -> list[Finding]:
    try:
        async with connection.log() as log:
            where = "given by a test" if connection.connect else str(connection.bus_settings().kafka)
            return [Finding("kafka", Verdict.OK, f"answers at {where}"), *await _topics(log, connection.prefix)]
    except HeteroscaleError as error:
        return [Finding("kafka", Verdict.FAIL, str(error), "start it, or correct HETEROSCALE_KAFKA; heteroscale servers up starts one")]


async def _topics(log: Log, prefix: str) -> list[Finding]:
    layouts = await log.describe_topics([spec.name(prefix) for spec in CATALOGUE.values()])
    missing = [spec.name(prefix) for spec in CATALOGUE.values() if spec.name(prefix) not in layouts]
    if missing:
        text = f"{len(missing)} of {len(CATALOGUE)} missing under {prefix}"
        return [Finding("topics", Verdict.FAIL, text, f"heteroscale --prefix {prefix} topics create")]
    try:
        await catalogue.check(log, prefix)
    except Rejected as error:
        return [Finding("topics", Verdict.FAIL, str(error), "delete the topic, or use another --prefix")]
    view = LogView(log, prefix)
    return [*_configurations(layouts, prefix), *await _flow(view)]


def _configurations(layouts: Mapping[str, TopicLayout], prefix: str) -> list[Finding]:
    findings: list[Finding] = []
    for spec in CATALOGUE.values():
        name = spec.name(prefix)
        have = layouts[name].config
        for key, wanted in sorted(spec.config().items()):
            if key in have and have[key] != wanted and key != "retention.ms":
                cure = f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {key}={wanted}"
                findings.append(Finding("topics", Verdict.NOTE, f"{name} has {key}={have[key]}, the catalogue says {wanted}", cure))
    return findings or [Finding("topics", Verdict.OK, f"all {len(CATALOGUE)} are there under {prefix}, laid out as they should be")]


def _ticks(age_ms: int) -> Finding:
    """Whether time goes on, by how old the newest tick is."""
    if age_ms < -STALE_MS:
        ahead = Duration(-age_ms // 1000 * 1000)
        text = f"the newest is {ahead} ahead of this machine's clock; if it was believed, no window closes until then"
        return Finding("ticks", Verdict.NOTE, text, "set the clocks of the hosts that run signals; or a simulator drives time")
    text = f"the newest is {Duration(max(0, age_ms) // 1000 * 1000)} old"
    if age_ms < STALE_MS:
        return Finding("ticks", Verdict.OK, text)
    return Finding("ticks", Verdict.NOTE, text, "heteroscale run signals; or a simulator drives time, and then this is as it should be")


async def _flow(view: LogView) -> list[Finding]:
    findings: list[Finding] = []
    tick = await view.newest_tick_ms()
    specs = await view.newest_each(ServiceSpec, Topic.SPECS)
    if tick is None:
        cure = "heteroscale run signals; it ticks unless HETEROSCALE_TICKER=off"
        findings.append(Finding("ticks", Verdict.NOTE, "none: no signals service has run under this prefix", cure))
    else:
        findings.append(_ticks(clock.now_ms() - tick))
    findings.append(Finding("specs", Verdict.OK, f"{len(specs)} services") if specs else
                    Finding("specs", Verdict.NOTE, "none", "heteroscale apply SPEC.yaml"))  # fmt: skip
    findings.extend(await _engines(view, specs))
    at = (await view.partitions(Topic.DEAD_LETTERS))[0]
    begin, end = (await view.log.begin_offsets([at]))[at], (await view.log.end_offsets([at]))[at]
    if end > begin:
        findings.append(Finding("dead letters", Verdict.NOTE, str(end - begin), "heteroscale dead-letters list"))
    else:
        findings.append(Finding("dead letters", Verdict.OK, "none"))
    return findings


async def _engines(view: LogView, specs: Iterable[str]) -> list[Finding]:
    """Whether the newest window of each service with a spec has any instance in it."""
    newest = {service: await view.newest(SignalWindow, Topic.SIGNALS, service) for service in specs}
    mute = [service for service, window in newest.items() if window is None or not any(map(_seen, window.roles.values()))]
    if not newest:
        return []
    if not mute:
        return [Finding("engines", Verdict.OK, "each service with a spec has telemetry")]
    cure = f"heteroscale telemetry tail shows who publishes; engines say `service: {mute[0]}` in each record"
    return [Finding("engines", Verdict.NOTE, f"no window has telemetry of {', '.join(mute)}", cure)]


def _seen(signal: RoleSignal) -> bool:
    """Whether any instance of a role was heard of."""
    return any(msgspec.structs.astuple(signal.instances))


async def _redis(connection: Connection) -> list[Finding]:
    from heteroscale.placement.inventory.redis import RedisInventory, client_of  # noqa: PLC0415 (only this check needs the client)

    try:
        found = connection.redis_settings()
    except Rejected as error:
        return [Finding("redis", Verdict.NOTE, error.message, "heteroscale servers up")]
    bounded = settings.replaced(found, timeout_ms=REDIS_PATIENCE_MS)
    inventory = RedisInventory(client_of(bounded), timeout_ms=REDIS_PATIENCE_MS)
    try:
        await inventory.ping()
        warnings = await inventory.warnings()
    except HeteroscaleError as error:
        cure = "start it, or correct HETEROSCALE_REDIS; heteroscale servers up starts one"
        return [Finding("redis", Verdict.FAIL, f"{settings.redacted(found)['url']} does not answer: {error}", cure)]
    finally:
        await inventory.close()
    findings = [Finding("redis", Verdict.OK, f"answers at {settings.redacted(found)['url']}")]
    for warning in warnings:
        text, _, setting = warning.removeprefix("redis: ").partition("; set ")
        cure = f"redis-cli config set {setting}" if setting else "let the user call CONFIG GET"
        findings.append(Finding("redis", Verdict.NOTE, text, cure))
    return findings
