"""An engine that an exporter scrapes: where its page is, and who it is on telemetry.v1."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.telemetry.export_settings import ExportSettings

_PATHS: Final = {"trtllm": "/prometheus/metrics"}  # of engines that do not serve /metrics


class Listed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine as people list it; what they leave out comes from the settings.

    `dcgm`: its node's DCGM exporter; `{host}` in it is the node's address. Which GPUs of that page are its own is said by `pod`, where the
    page names pods, and by `gpu_indices`.
    """

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
    pod: str | None = None
    gpu_indices: tuple[int, ...] | None = None


class Target(Listed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine of which all is known that a sample needs."""

    service: str
    role: str
    instance: str
    engine: str = "auto"


def host_in_url(address: str) -> str:
    """A host name or an IP address as a URL wants it."""
    return f"[{address}]" if ":" in address else address


def target(settings: ExportSettings, url: str, *, node_address: str | None = None, **said: object) -> Target:
    """A target with what the settings say where nothing else does. Raises Rejected (`url`).

    `node_address`: of the node where the engine runs; null = the engine's own.
    """
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
    known = defaults | {name: value for name, value in said.items() if value is not None}
    if isinstance(known["dcgm"], str):
        known["dcgm"] = known["dcgm"].replace("{host}", host_in_url(node_address or parts.hostname))
    return codec.convert(Target, known | {"engine": engine, "url": parts._replace(path=path).geturl()})
