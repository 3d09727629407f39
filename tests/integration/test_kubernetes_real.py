"""The Kubernetes actuator against a real API server with real Deployment controllers, under the rights of our manifest and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from heteroscale.actuation import app, kubernetes_api
from heteroscale.actuation.desks import Delayed
from heteroscale.actuation.kubernetes_api import ClusterApi
from heteroscale.actuation.kubernetes_targets import ScaleTarget
from heteroscale.actuation.settings import ActuatorKind, ActuatorSettings
from heteroscale.bus import catalogue, scan
from heteroscale.bus.log import Log
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.placements import InstanceState, PlacedInstance
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support import builders, capabilities
from support.kube_servers import ROOT, KubeServers, binaries

pytestmark = pytest.mark.timeout(180)

PREFIX = "memory"
TOPICS = (Topic.PLACEMENTS, Topic.ACTUATIONS, Topic.DEAD_LETTERS, Topic.TELEMETRY)
LABEL = "heteroscale.io/chat.prefill"
WITHIN_S = 45.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServers]:
    """A cluster with our rights, two nodes and a Deployment that selects reserved nodes."""
    capability = capabilities.look("kube-apiserver", binaries)
    if not capability.available:
        capabilities.missing(capability)
    servers = KubeServers(tmp_path_factory.mktemp("kubernetes"))
    try:
        servers.start()
        for name in ("heteroscale", "llm"):
            servers.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for document in yaml.safe_load_all((ROOT / "infra/kubernetes/kubernetes-actuator/rbac.yaml").read_text()):
            servers.apply(document)
        for node in ("n1", "n2"):
            servers.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        servers.apply(_deployment())
        yield servers
    finally:
        servers.stop()


def _deployment() -> dict[str, object]:
    labels = {"app": "chat-prefill"}
    pod = {"nodeSelector": {LABEL: "reserved"}, "containers": [{"name": "engine", "image": "engine"}]}
    template = {"metadata": {"labels": labels}, "spec": pod | {"terminationGracePeriodSeconds": 0}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "chat-prefill", "namespace": "llm"}, "spec": spec}


class Loop:
    """Placements in, acknowledgements out, and the world between."""

    def __init__(self, cluster: KubeServers, log: Log) -> None:
        self._cluster = cluster
        self._log = log
        self._seq = 0

    async def place(self, *instances: PlacedInstance) -> None:
        """The next assignment."""
        self._seq += 1
        await self._log.append([builders.placement_entry(PREFIX, builders.placement("chat", *instances, seq=self._seq))])

    async def said(self) -> set[tuple[str, str]]:
        """What was acknowledged."""
        places = await scan.partitions_of(self._log, [topic_name(PREFIX, Topic.ACTUATIONS)])
        found = [codec.decode(Actuation, record.value or b"") async for batch in scan.to_end(self._log, places) for record in batch]
        return {(one.instance, one.kind.value) for one in found}

    async def until(self, *wanted: tuple[str, str]) -> None:
        """Be scheduler and kubelet until these were acknowledged."""
        async with asyncio.timeout(WITHIN_S):
            while not set(wanted) <= await self.said():
                await asyncio.to_thread(self._cluster.be_kubelet, "llm")
                await asyncio.sleep(0.2)

    async def pods(self) -> dict[str, dict[str, str]]:
        """Labels and node of each pod, by its instance."""
        found = await asyncio.to_thread(self._cluster.call, "GET", "/api/v1/namespaces/llm/pods")
        labelled = [(pod["metadata"].get("labels") or {}, pod["spec"].get("nodeName", "")) for pod in found["items"]]
        return {labels.get("heteroscale.io/instance", ""): {**labels, "node": node} for labels, node in labelled}


def _placed(name: str, state: InstanceState, node: str, *, routable: bool = False) -> PlacedInstance:
    return PlacedInstance(id=name, role="prefill", gpu_type="H20", nodes={node: 8}, state=state, since_ms=0, routable=routable)


async def test_a_deployment_follows_placements_through_a_real_api_server(
    cluster: KubeServers, memory_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reserved → pods on the reserved nodes → ready → routed → drained → gone, with the acknowledgements of each step."""
    targets = tmp_path / "targets.yaml"
    targets.write_text("targets: [{service: chat, role: prefill, namespace: llm, name: chat-prefill, pin: true}]")
    token = cluster.token_of("kubernetes-actuator", "heteroscale")
    monkeypatch.setattr(kubernetes_api, "client", lambda: cluster.client(token))
    await catalogue.create(memory_log, PREFIX, topics=TOPICS)
    context = Context(log=memory_log, prefix=PREFIX, health=Health())
    settings = ActuatorSettings(actuator_kind=ActuatorKind.KUBERNETES, actuator_targets=str(targets), actuator_drain_ms=1_000)
    serving = asyncio.create_task(app.serve(context, settings))
    loop = Loop(cluster, memory_log)

    await loop.place(_placed("a", InstanceState.RESERVED, "n1"), _placed("b", InstanceState.RESERVED, "n2"))
    await loop.until(("a", "starting"), ("a", "ready"), ("b", "starting"), ("b", "ready"))
    pods = await loop.pods()
    assert {"a": "n1", "b": "n2"} == {name: pod["node"] for name, pod in pods.items()}

    await loop.place(_placed("a", InstanceState.STOPPING, "n1"), _placed("b", InstanceState.READY, "n2", routable=True))
    await loop.until(("a", "stopped"))
    pods = await loop.pods()
    assert {"b"} == set(pods), "the drained pod went, the serving one stayed"
    assert "true" == pods["b"]["heteroscale.io/routable"]
    nodes = (await asyncio.to_thread(cluster.call, "GET", "/api/v1/nodes"))["items"]
    assert {"n1": None, "n2": "reserved"} == {node["metadata"]["name"]: (node["metadata"].get("labels") or {}).get(LABEL) for node in nodes}

    rival = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat-prefill"}, "minReplicas": 1, "maxReplicas": 9}
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "rival", "namespace": "llm"},
        "spec": rival,
    }
    await asyncio.to_thread(cluster.apply, hpa)
    monkeypatch.setattr("heteroscale.actuation.kubernetes.RIVALS_S", 0.0)
    await loop.place(_placed("b", InstanceState.READY, "n2", routable=True), _placed("c", InstanceState.RESERVED, "n1"))
    await asyncio.sleep(3)
    scale = await asyncio.to_thread(cluster.call, "GET", "/apis/apps/v1/namespaces/llm/deployments/chat-prefill/scale")
    assert 1 == scale["spec"]["replicas"], "another autoscaler has it: nothing is changed"
    await asyncio.to_thread(cluster.call, "DELETE", "/apis/autoscaling/v2/namespaces/llm/horizontalpodautoscalers/rival")
    await loop.until(("c", "ready"))

    context.stop.set()
    await asyncio.wait_for(serving, 10)


async def test_without_the_rights_it_says_which_one_is_missing(cluster: KubeServers) -> None:
    """403 from a real authorizer names the right to grant; a target that is not there is no error."""
    api = ClusterApi(cluster.client(cluster.token_of("kubernetes-actuator", "heteroscale")))
    with pytest.raises(Delayed, match="grant: get deployments/scale"):
        await api.scale(ScaleTarget(service="s", role="r", namespace="heteroscale", name="elsewhere"))
    assert await api.scale(ScaleTarget(service="s", role="r", namespace="llm", name="not-there")) is None
    await api.close()
