"""Where an exporter has its targets from: given one by one, in a file, behind a DNS name, or as Kubernetes pods by label."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final, Protocol

import msgspec
import yaml

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.telemetry.export_settings import ExportSettings
from heteroscale.telemetry.export_targets import Listed, Target, host_in_url, target

LOOKUP_LIMIT_S: Final = 3.0


class Source(Protocol):
    """Where targets come from."""

    async def targets(self) -> list[Target]:
        """Those there are now. Raises Retryable when it cannot be asked now, Rejected when it can never be."""
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


class _HoldsNothing:
    async def close(self) -> None:
        """Nothing is held."""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    targets: list[Listed]


def sources(settings: ExportSettings) -> list[Source]:
    """The sources that the settings name. Raises Rejected (`no_targets`)."""
    found: list[Source] = []
    if settings.export_urls:
        found.append(Static([target(settings, url.strip()) for url in settings.export_urls.split(",") if url.strip()]))
    if settings.export_file:
        found.append(TargetsFile(Path(settings.export_file), settings))
    if settings.export_dns:
        found.append(Addresses(settings.export_dns, settings))
    if settings.export_pods:
        found.append(_pods(settings.export_pods, settings))
    if not found:
        raise Rejected("no_targets", "no engine is named; give --url http://HOST:PORT/metrics, --targets FILE, --dns HOST:PORT or --pods")
    return found


def _pods(text: str, settings: ExportSettings) -> Source:
    try:
        from heteroscale.telemetry.export_pods import Pods  # noqa: PLC0415 (the extra `kubernetes` may not be installed)
    except ModuleNotFoundError as error:
        raise Rejected("settings", f"{error}; install it: pip install 'heteroscale[kubernetes]'", "pods") from error
    return Pods.parse(text, settings)


class Static(_HoldsNothing):
    """Targets given one by one."""

    def __init__(self, targets: list[Target]) -> None:
        self._targets = targets

    async def targets(self) -> list[Target]:
        """Always the same."""
        return self._targets


class TargetsFile(_HoldsNothing):
    """A YAML file: `targets:` with a list of mappings whose keys are Target's; only `url` is required."""

    def __init__(self, path: Path, settings: ExportSettings) -> None:
        self._path = path
        self._settings = settings

    async def targets(self) -> list[Target]:
        """As the file stands. Raises Rejected where it cannot be read: the exporter then keeps the targets that it has."""
        try:
            document = yaml.safe_load(await asyncio.to_thread(self._path.read_text, "utf-8"))
        except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
            raise Rejected("unreadable", " ".join(str(error).split()), str(self._path)) from error
        try:
            listed = codec.convert(_File, document).targets
        except Rejected as error:
            raise Rejected("invalid", error.message, str(self._path)) from error
        return [
            target(self._settings, one.url, **{name: value for name, value in msgspec.structs.asdict(one).items() if name != "url"})
            for one in listed
        ]


class Addresses(_HoldsNothing):
    """Every address of a DNS name (a headless Service): instances are called by their address."""

    def __init__(self, name: str, settings: ExportSettings) -> None:
        host, colon, port = name.rpartition(":")
        if not colon or not host or not port.isdecimal():
            raise Rejected("dns", "is not HOST:PORT", name)
        self._host, self._port = host, int(port)
        self._settings = settings

    async def targets(self) -> list[Target]:
        """One an address, sorted. Raises Retryable when the name cannot be resolved now."""
        try:
            async with asyncio.timeout(LOOKUP_LIMIT_S):
                found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as error:
            raise Retryable(f"{self._host} does not resolve: {error}") from error
        hosts = sorted({str(address[4][0]) for address in found})
        return [target(self._settings, f"http://{host_in_url(host)}:{self._port}") for host in hosts]
