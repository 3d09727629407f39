"""Kubernetes pods by label as targets: service, role and instance are taken from the labels that the actuator writes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final, Self

import httpx2
from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.models.core_v1 import PodStatus
from lightkube.resources.core_v1 import Pod

from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.telemetry import export_targets
from heteroscale.telemetry.export_settings import ExportSettings
from heteroscale.telemetry.export_targets import Target

LIST_LIMIT_S: Final = 10.0
_FORM = re.compile(r"^(?P<namespace>[a-z0-9-]+)/(?P<selector>[^:]+):(?P<port>\d+)$")


class Pods:
    """Running pods of one namespace that carry some labels; pods that are being deleted are still engines."""

    def __init__(self, namespace: str, labels: Mapping[str, str], port: int, settings: ExportSettings) -> None:
        self._namespace, self._labels, self._port = namespace, dict[str, Any](labels), port
        self._settings = settings
        self.client: AsyncClient | None = None

    @classmethod
    def parse(cls, text: str, settings: ExportSettings) -> Self:
        """From `NAMESPACE/KEY=VALUE[,KEY=VALUE]:PORT`. Raises Rejected (`pods`)."""
        found = _FORM.match(text)
        pairs = [] if found is None else [pair.partition("=") for pair in found["selector"].split(",")]
        if found is None or not all(equals and key for key, equals, _ in pairs):
            raise Rejected("pods", "write NAMESPACE/KEY=VALUE[,KEY=VALUE]:PORT", text)
        return cls(found["namespace"], {key: value for key, _, value in pairs}, int(found["port"]), settings)

    async def targets(self) -> list[Target]:
        """One a pod with an address, sorted by name. Raises Retryable when the API server does not answer or refuses."""
        try:
            async with asyncio.timeout(LIST_LIMIT_S):
                if self.client is None:
                    self.client = AsyncClient()
                pods = [pod async for pod in self.client.list(Pod, namespace=self._namespace, labels=self._labels)]
        except (ApiError, ConfigError, httpx2.HTTPError, OSError, TimeoutError, ValueError) as error:
            raise Retryable(f"pods of {self._namespace} cannot be listed: {error or type(error).__name__}") from error
        targets = [self._target(pod) for pod in pods]
        return sorted((target for target in targets if target is not None), key=lambda target: target.instance)

    def _target(self, pod: Pod) -> Target | None:
        status = pod.status or PodStatus()
        if pod.metadata is None or status.phase != "Running" or not status.podIP:
            return None
        labels = pod.metadata.labels or {}
        host = f"[{status.podIP}]" if ":" in status.podIP else status.podIP
        return export_targets.target(
            self._settings,
            f"http://{host}:{self._port}",
            instance=labels.get("heteroscale.io/instance") or pod.metadata.name,
            service=labels.get("heteroscale.io/service"),
            role=labels.get("heteroscale.io/role"),
            node=None if pod.spec is None else pod.spec.nodeName,
        )
