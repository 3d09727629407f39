"""Kubernetes pods by label as targets, watched: service, role and instance are taken from the labels that the actuator writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Self

import httpx2
from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError
from lightkube.models.core_v1 import PodStatus
from lightkube.resources.core_v1 import Pod

from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.runtime.pod_watch import PodWatch
from heteroscale.telemetry import export_targets
from heteroscale.telemetry.export_settings import ExportSettings
from heteroscale.telemetry.export_targets import Target

_FORM: Final = re.compile(r"^(?P<namespace>[a-z0-9-]+)/(?P<selector>[^:]+):(?P<port>\d+)$")


class Pods:
    """Running pods of one namespace that carry some labels; pods that are being deleted are still engines."""

    def __init__(self, namespace: str, labels: Mapping[str, str], port: int, settings: ExportSettings) -> None:
        self._namespace, self._labels, self._port = namespace, dict(labels), port
        self._settings = settings
        self._watch: PodWatch | None = None
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
            if self.client is None:
                self.client = AsyncClient()
            if self._watch is None:
                self._watch = PodWatch(self.client, self._namespace, self._labels, lambda: None)
            pods = await self._watch.pods()
        except (ConfigError, httpx2.HTTPError, OSError, TimeoutError, ValueError) as error:
            raise Retryable(f"pods of {self._namespace} cannot be watched: {error or type(error).__name__}") from error
        targets = [self._target(pod) for pod in pods]
        return sorted((target for target in targets if target is not None), key=lambda target: target.instance)

    async def close(self) -> None:
        """Let go of the watch and its connections."""
        if self._watch is not None:
            await self._watch.close()
        if self.client is not None:
            await self.client.close()

    def _target(self, pod: Pod) -> Target | None:
        status = pod.status or PodStatus()
        if pod.metadata is None or status.phase != "Running" or not status.podIP:
            return None
        labels = pod.metadata.labels or {}
        return export_targets.target(
            self._settings,
            f"http://{export_targets.host_in_url(status.podIP)}:{self._port}",
            node_address=status.hostIP,
            pod=pod.metadata.name,
            instance=labels.get("heteroscale.io/instance") or pod.metadata.name,
            service=labels.get("heteroscale.io/service"),
            role=labels.get("heteroscale.io/role"),
            node=None if pod.spec is None else pod.spec.nodeName,
        )
