"""The Kubernetes actuator against a real API server with real Deployment controllers, under the rights of our manifest and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from heteroscale.actuation import app, kubernetes_api
from heteroscale.actuation.desks import Delayed
from heteroscale.actuation.kubernetes_api import ClusterApi
from heteroscale.actuation.kubernetes_targets import ScaleTarget
from heteroscale.actuation.settings import ActuatorKind, ActuatorSettings
from heteroscale.bus import catalogue, scan
from heteroscale.bus.log import Entry, Log
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.fleet import FleetNode, NodeAt, node_key
from heteroscale.contracts.placements import InstanceState, PlacedInstance
from heteroscale.contracts.telemetry import EngineState, Tick
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.decision.specs.parsing import parse_spec
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.simulator.embedded import Embedded
from support import builders, capabilities
from support.kube_servers import ROOT, KubeServers, binaries
from support.plant import Engine, Plant

pytestmark = pytest.mark.timeout(180)

PREFIX = "memory"
TOPICS = (Topic.PLACEMENTS, Topic.ACTUATIONS, Topic.DEAD_LETTERS, Topic.TELEMETRY)
LABEL = "heteroscale.io/chat.prefill"
WITHIN_S = 45.0
START_MS = 1_780_000_020_000
SPEC = """
service: code
fleet: default
mode: active
roles:
  prefill: {min: 1, max: 2, gpus: 8, gpu_types: [{type: H20}]}
  decode: {min: 2, max: 4, gpus: 8, gpu_types: [{type: H20}]}
ratio: {prefill: 1, decode: 2}
window: {size: 60s, hop: 30s, interval: 10s, allowed_lateness: 0s, silence: 30s}
signals:
  - {metric: decode_tps, role: decode, target: 1000}
behavior:
  scale_out: {cooldown: 30s}
  scale_in: {stabilization: 60s, cooldown: 60s, soft: {observe: 60s}}
"""


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
        for number in range(6):
            servers.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"m{number}"}})
        for service, role in (("chat", "prefill"), ("code", "prefill"), ("code", "decode")):
            servers.apply(_deployment(service, role))
        yield servers
    finally:
        servers.stop()


def _deployment(service: str, role: str) -> dict[str, object]:
    """Nothing at first; its pods run on nodes that are reserved for them."""
    name = f"{service}-{role}"
    labels = {"app": name}
    pod = {"nodeSelector": {f"heteroscale.io/{service}.{role}": "reserved"}, "containers": [{"name": "engine", "image": "engine"}]}
    template = {"metadata": {"labels": labels}, "spec": pod | {"terminationGracePeriodSeconds": 0}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "llm"}, "spec": spec}


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
        found = await asyncio.to_thread(self._cluster.call, "GET", "/api/v1/namespaces/llm/pods?labelSelector=app=chat-prefill")
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
    assert {"n1": None, "n2": "reserved"} == {
        node["metadata"]["name"]: (node["metadata"].get("labels") or {}).get(LABEL)
        for node in nodes
        if node["metadata"]["name"] in {"n1", "n2"}
    }

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


class ClusterPlant(Plant):
    """Engines that are the ready pods of a cluster; what becomes of them is for the actuator to say."""

    cluster: KubeServers

    async def look(self) -> None:
        """Be scheduler and kubelet for a moment; then engines are the pods that are ready."""
        await asyncio.to_thread(self.cluster.be_kubelet, "llm")
        found = await asyncio.to_thread(self.cluster.call, "GET", "/api/v1/namespaces/llm/pods?labelSelector=heteroscale.io/service=code")
        up = {pod["metadata"]["labels"]["heteroscale.io/instance"] for pod in found["items"] if pod["status"].get("conditions")}
        placed = {one.id: one for group in (self.assignment.groups if self.assignment else []) for one in group.instances}
        for name in self.engines.keys() - up:
            del self.engines[name]
        for name in up & placed.keys() - self.engines.keys():
            self.engines[name] = Engine(placed[name], EngineState.SERVING, self.now_ms)

    def _follow(self) -> list[Actuation]:
        return []

    async def hop_until(self, wanted: dict[str, int]) -> None:
        """Hops, and looks between them, until so many are ready and nothing is under way."""
        for _ in range(40):
            await self.hop()
            for _ in range(3):
                await self.look()
                await asyncio.sleep(0.25)
            if self.count(InstanceState.READY) == wanted == self.count():
                return
        raise AssertionError(f"{wanted} never came: {self.assignment}")


async def test_a_decision_of_the_running_loop_scales_real_deployments(
    cluster: KubeServers, memory_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load → window → decision → reservation → /scale → pods on the reserved nodes → ready → the assignment says so."""
    monkeypatch.setattr(kubernetes_api, "client", lambda: cluster.client(cluster.token_of("kubernetes-actuator", "heteroscale")))
    targets = tmp_path / "targets.yaml"
    listed = [{"service": "code", "role": role, "namespace": "llm", "name": f"code-{role}", "pin": True} for role in ("prefill", "decode")]
    targets.write_text(yaml.safe_dump({"targets": listed}))
    await catalogue.create(memory_log, PREFIX, keep_forever=True)
    tick, name = codec.encode(Tick(at_ms=START_MS)), topic_name(PREFIX, Topic.TELEMETRY)
    await memory_log.append([Entry(name, None, tick, START_MS, n) for n in range(CATALOGUE[Topic.TELEMETRY].partitions)])
    spec = msgspec.structs.replace(parse_spec(yaml.safe_load(SPEC)), revision=1, applied_at_ms=START_MS)
    await memory_log.append([builders.entry(PREFIX, Topic.SPECS, "code", spec, START_MS)])
    for node in range(6):
        one = FleetNode(node=f"m{node}", fleet="default", gpu_type="H20", gpus=8, at=NodeAt(cluster="c1", s2="A", s1="a1"))
        await memory_log.append([builders.entry(PREFIX, Topic.FLEET, node_key("default", one.node), one, START_MS)])
    context = Context(log=memory_log, prefix=PREFIX, health=Health())
    settings = ActuatorSettings(actuator_kind=ActuatorKind.KUBERNETES, actuator_targets=str(targets), actuator_services="code")
    services = [asyncio.ensure_future(serve(context)) for serve in Embedded().services().values()]
    services.append(asyncio.ensure_future(app.serve(context, settings)))
    demand = {"decode": 1_500.0, "prefill": 9_000.0}
    plant = ClusterPlant(memory_log, PREFIX, "code", "default", START_MS + 10_000, START_MS + 60_000, demand)
    plant.cluster = cluster

    await plant.hop_until({"prefill": 1, "decode": 2})
    plant.demand = {"decode": 3_900.0, "prefill": 24_000.0}
    await plant.hop_until({"prefill": 2, "decode": 4})
    for role, replicas in (("prefill", 2), ("decode", 4)):
        scale = await asyncio.to_thread(cluster.call, "GET", f"/apis/apps/v1/namespaces/llm/deployments/code-{role}/scale")
        assert replicas == scale["spec"]["replicas"]
    where = {one.id: set(one.nodes) for group in plant.assignment.groups for one in group.instances} if plant.assignment else {}
    pods = await asyncio.to_thread(cluster.call, "GET", "/api/v1/namespaces/llm/pods?labelSelector=heteroscale.io/service=code")
    on = {pod["metadata"]["labels"]["heteroscale.io/instance"]: {pod["spec"]["nodeName"]} for pod in pods["items"]}
    assert where == on, "every pod is on the node that was reserved for it"

    context.stop.set()
    await asyncio.wait_for(asyncio.gather(*services), 15)
    await plant.close()


async def test_without_the_rights_it_says_which_one_is_missing(cluster: KubeServers) -> None:
    """403 from a real authorizer names the right to grant; a target that is not there is no error."""
    api = ClusterApi(cluster.client(cluster.token_of("kubernetes-actuator", "heteroscale")))
    with pytest.raises(Delayed, match="grant: get deployments/scale"):
        await api.scale(ScaleTarget(service="s", role="r", namespace="heteroscale", name="elsewhere"))
    assert await api.scale(ScaleTarget(service="s", role="r", namespace="llm", name="not-there")) is None
    await api.close()
