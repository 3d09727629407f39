"""Kubernetes pods as targets: who they are is read from the labels that the actuator writes."""

from __future__ import annotations

import pytest

from heteroscale.contracts.errors import Retryable
from heteroscale.telemetry.export_pods import Pods
from heteroscale.telemetry.export_settings import ExportSettings
from support.fake_cluster import FakeCluster


async def test_pods_are_targets_under_their_instance_id() -> None:
    """Labels first, then the pod's own name and the settings; a pod that has ended is none; an API server that breaks is waited for."""
    settings = ExportSettings(export_service="chat", export_role="decode", export_gpu_type="H20")
    source = Pods.parse("llm/app=chat-prefill:8000", settings)
    async with FakeCluster() as cluster:
        source.client = cluster.client()
        labels = {"heteroscale.io/instance": "chat-p-1", "heteroscale.io/service": "chat-70b", "heteroscale.io/role": "prefill"}
        cluster.add_pod("chat-prefill", "pod-b", node="n7", labels=labels)
        cluster.add_pod("chat-prefill", "pod-z")
        cluster.add_pod("chat-prefill", "pod-ended")
        cluster.pods["pod-ended"]["phase"] = "Failed"
        found = await source.targets()
        assert [("chat-p-1", "chat-70b", "prefill", "n7"), ("pod-z", "chat", "decode", "n1")] == [
            (target.instance, target.service, target.role, target.node) for target in found
        ]
        assert {"http://10.0.0.7:8000/metrics"} == {target.url for target in found}
        assert {"H20"} == {target.gpu_type for target in found}
        cluster.fail = [("GET", "/pods", 403, {})]
        with pytest.raises(Retryable, match="llm"):
            await source.targets()
        await source.client.close()
