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

    `gpu_indices`: which GPUs of the node's DCGM page are its own, where that page names no pods.
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
    gpu_indices: tuple[int, ...] | None = None


class Target(Listed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine of which all is known that a sample needs."""

    service: str
    role: str
    instance: str
    engine: str = "auto"


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
