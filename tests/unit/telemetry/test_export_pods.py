"""Kubernetes pods as targets: who they are is read from the labels that the actuator writes."""

from __future__ import annotations

import asyncio

import pytest

from heteroscale.contracts.errors import Retryable
from heteroscale.telemetry.export_pods import Pods
from heteroscale.telemetry.export_settings import ExportSettings
from heteroscale.telemetry.export_targets import Target
from support.fake_cluster import FakeCluster


async def test_pods_are_targets_under_their_instance_id() -> None:
    """Labels first, then the pod's own name and the settings; one that ended or went is none; a refusal is waited for."""
    settings = ExportSettings(export_service="chat", export_role="decode", export_gpu_type="H20", export_dcgm="http://{host}:9400/metrics")
    source = Pods.parse("llm/app=chat-prefill:8000", settings)
    async with FakeCluster() as cluster:
        source.client = cluster.client()
        labels = {"heteroscale.io/instance": "chat-p-1", "heteroscale.io/service": "chat-70b", "heteroscale.io/role": "prefill"}
        cluster.add_pod("chat-prefill", "pod-b", node="n7", labels=labels)
        cluster.add_pod("chat-prefill", "pod-z")
        cluster.add_pod("chat-prefill", "pod-ended")
        cluster.pods["pod-ended"]["phase"] = "Failed"
        cluster.fail = [("GET", "/pods", 403, {})]
        with pytest.raises(Retryable, match="llm"):
            await source.targets()
        async with asyncio.timeout(10):
            while not (found := await listed(source)):
                await asyncio.sleep(0.01)
        assert [("chat-p-1", "chat-70b", "prefill", "n7"), ("pod-z", "chat", "decode", "n1")] == [
            (target.instance, target.service, target.role, target.node) for target in found
        ]
        assert {"http://10.0.0.7:8000/metrics"} == {target.url for target in found}
        assert {"H20"} == {target.gpu_type for target in found}
        assert {("pod-b", "http://10.9.0.1:9400/metrics"), ("pod-z", "http://10.9.0.1:9400/metrics")} == {
            (target.pod, target.dcgm) for target in found
        }
        del cluster.pods["pod-z"]
        cluster.publish()
        async with asyncio.timeout(10):
            while ["chat-p-1"] != [target.instance for target in await listed(source)]:
                await asyncio.sleep(0.01)
        await source.close()


async def listed(source: Pods) -> list[Target]:
    """The targets; none while the API server refuses."""
    try:
        return await source.targets()
    except Retryable:
        return []
