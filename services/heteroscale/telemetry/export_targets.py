"""Which engines an exporter scrapes: given one by one, in a file, behind a DNS name, or as Kubernetes pods by label."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec
import yaml

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.telemetry.export_settings import ExportSettings

LOOKUP_LIMIT_S: Final = 3.0
_PATHS: Final = {"trtllm": "/prometheus/metrics"}  # of engines that do not serve /metrics


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine. `gpu_indices`: which GPUs of the node's DCGM page are its own, where that page names no pods."""

    url: str
    service: str
    role: str
    instance: str
    engine: str = "auto"
    node: str | None = None
    group: str | None = None
    gpu_type: str | None = None
    gpus: int | None = None
    dcgm: str | None = None
    gpu_indices: tuple[int, ...] | None = None


class _Listed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of a targets file; what it leaves out comes from the settings."""

    url: str
    service: str | None = None
    role: str | None = None
    instance: str | None = None
    engine: str | None = None
    node: str | None = None
    group: str | None = None
    gpu_type: str | None = None
    gpus: int | None = None
    dcgm: str | None = None
    gpu_indices: tuple[int, ...] | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    targets: list[_Listed]


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


def target(settings: ExportSettings, url: str, **said: object) -> Target:
    """A target with what the settings say where nothing else does. Raises Rejected (`url`)."""
    engine = str(said.get("engine") or settings.export_engine)
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        authority = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    except ValueError as error:
        raise Rejected("url", f"{error}; write http://HOST:PORT/metrics", url) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Rejected("url", "is not an address of a page; write http://HOST:PORT/metrics", url)
    path = parts.path if parts.path not in {"", "/"} else _PATHS.get(engine, "/metrics")
    defaults: dict[str, object] = {
        "service": settings.export_service,
        "role": settings.export_role,
        "instance": authority,
        "node": settings.export_node,
        "gpu_type": settings.export_gpu_type,
        "gpus": settings.export_gpus,
        "dcgm": settings.export_dcgm,
    }
    given = {name: value for name, value in said.items() if value is not None}
    return codec.convert(Target, defaults | given | {"engine": engine, "url": parts._replace(path=path).geturl()})


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
        from heteroscale.telemetry.export_pods import Pods  # noqa: PLC0415 (the extra `kubernetes` may not be installed)

        found.append(Pods.parse(settings.export_pods, settings))
    if not found:
        raise Rejected("no_targets", "no engine is named; give --url http://HOST:PORT/metrics, --targets FILE, --dns HOST:PORT or --pods")
    return found


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
        return [target(self._settings, f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}") for host in hosts]
