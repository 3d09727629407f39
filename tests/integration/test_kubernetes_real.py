"""The Kubernetes actuator against a real API server with real Deployment controllers, under the rights of our manifest and no others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from heteroscale.contracts.telemetry import EngineState
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support import builders, capabilities, loop_world
from support.kube_servers import ROOT, KubeServers, binaries
from support.loop_world import HIGH, LOW, NODES, RATIO, SERVICES, plant_of
from support.plant import Engine, Plant
from support.processes import Fleet

pytestmark = pytest.mark.timeout(180)

PREFIX = "memory"
TOPICS = (Topic.PLACEMENTS, Topic.ACTUATIONS, Topic.DEAD_LETTERS, Topic.TELEMETRY)
LABEL = "heteroscale.io/solo.prefill"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices"
WITHIN_S = 45.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServers]:
    """A cluster with our rights, nodes, and Deployments that select reserved ones; the one of `solo` has our readiness gate."""
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
        for node in ("n1", "n2", *NODES):
            servers.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        for document in (
            _deployment("solo", "prefill", gated=True),
            _service("solo-prefill"),
            *(_deployment("chat", role) for role in RATIO),
        ):
            servers.apply(document)
        yield servers
    finally:
        servers.stop()


def _deployment(service: str, role: str, *, gated: bool = False) -> dict[str, object]:
    """Nothing at first; its pods run on nodes that are reserved for them."""
    name = f"{service}-{role}"
    labels = {"app": name}
    pod: dict[str, object] = {
        "nodeSelector": {f"heteroscale.io/{service}.{role}": "reserved"},
        "containers": [{"name": "engine", "image": "engine"}],
        "terminationGracePeriodSeconds": 0,
        "readinessGates": [{"conditionType": "heteroscale.io/routable"}] if gated else [],
    }
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "llm"}, "spec": spec}


def _service(app: str) -> dict[str, object]:
    """A Service of all pods of an application: who is ready is for its EndpointSlice to say."""
    spec = {"clusterIP": "None", "selector": {"app": app}, "ports": [{"port": 8000}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": app, "namespace": "llm"}, "spec": spec}


class Loop:
    """Placements in, acknowledgements out, and the world between."""

    def __init__(self, cluster: KubeServers, log: Log) -> None:
        self._cluster = cluster
        self._log = log
        self._seq = 0

    async def place(self, *instances: PlacedInstance) -> None:
        """The next assignment."""
        self._seq += 1
        await self._log.append([builders.placement_entry(PREFIX, builders.placement("solo", *instances, seq=self._seq))])

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

    async def until_routed(self, wanted: set[str]) -> None:
        """Be scheduler and kubelet until the EndpointSlice has these instances, and no others, as ready."""
        async with asyncio.timeout(WITHIN_S):
            while await asyncio.to_thread(self._routed) != wanted:
                await asyncio.to_thread(self._cluster.be_kubelet, "llm")
                await asyncio.sleep(0.2)

    def _routed(self) -> set[str]:
        pods = self._cluster.call("GET", "/api/v1/namespaces/llm/pods?labelSelector=app=solo-prefill")["items"]
        names = {pod["metadata"]["name"]: (pod["metadata"].get("labels") or {}).get("heteroscale.io/instance", "") for pod in pods}
        slices = self._cluster.call("GET", f"{SLICES}?labelSelector=kubernetes.io/service-name=solo-prefill")["items"]
        found = [one for listed in slices for one in listed.get("endpoints") or []]
        return {names.get(one["targetRef"]["name"], "") for one in found if one["conditions"].get("ready")}

    async def pods(self) -> dict[str, dict[str, str]]:
        """Labels and node of each pod, by its instance."""
        found = await asyncio.to_thread(self._cluster.call, "GET", "/api/v1/namespaces/llm/pods?labelSelector=app=solo-prefill")
        labelled = [(pod["metadata"].get("labels") or {}, pod["spec"].get("nodeName", "")) for pod in found["items"]]
        return {labels.get("heteroscale.io/instance", ""): {**labels, "node": node} for labels, node in labelled}


def _placed(name: str, state: InstanceState, node: str, *, routable: bool = False) -> PlacedInstance:
    return PlacedInstance(id=name, role="prefill", gpu_type="H20", nodes={node: 8}, state=state, since_ms=0, routable=routable)


async def test_a_deployment_follows_placements_through_a_real_api_server(
    cluster: KubeServers, memory_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reserved → pods on the reserved nodes → ready → routed by the EndpointSlice → drained → gone, each step acknowledged."""
    targets = tmp_path / "targets.yaml"
    targets.write_text("targets: [{service: solo, role: prefill, namespace: llm, name: solo-prefill, pin: true}]")
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
    await loop.until_routed(set())
    await loop.place(_placed("a", InstanceState.READY, "n1", routable=True), _placed("b", InstanceState.READY, "n2", routable=True))
    await loop.until_routed({"a", "b"})

    await loop.place(_placed("a", InstanceState.STOPPING, "n1"), _placed("b", InstanceState.READY, "n2", routable=True))
    await loop.until(("a", "stopped"))
    await loop.until_routed({"b"})
    pods = await loop.pods()
    assert {"b"} == set(pods), "the drained pod went, the serving one stayed"
    assert "true" == pods["b"]["heteroscale.io/routable"]
    nodes = (await asyncio.to_thread(cluster.call, "GET", "/api/v1/nodes"))["items"]
    assert {"n1": None, "n2": "reserved"} == {
        node["metadata"]["name"]: (node["metadata"].get("labels") or {}).get(LABEL)
        for node in nodes
        if node["metadata"]["name"] in {"n1", "n2"}
    }

    rival = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "solo-prefill"}, "minReplicas": 1, "maxReplicas": 9}
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
    scale = await asyncio.to_thread(cluster.call, "GET", "/apis/apps/v1/namespaces/llm/deployments/solo-prefill/scale")
    assert 1 == scale["spec"]["replicas"], "another autoscaler has it: nothing is changed"
    await asyncio.to_thread(cluster.call, "DELETE", "/apis/autoscaling/v2/namespaces/llm/horizontalpodautoscalers/rival")
    await loop.until(("c", "ready"))

    context.stop.set()
    await asyncio.wait_for(serving, 10)


@dataclass(slots=True)
class ClusterPlant(Plant):
    """Engines that are the ready pods of a cluster; what becomes of them is for the actuator to say."""

    cluster: KubeServers | None = None

    async def look(self) -> None:
        """Be scheduler and kubelet for a moment; then engines are the pods that are ready."""
        pods = await asyncio.to_thread(self.pods)
        up = {name for name, pod in pods.items() if pod["status"].get("conditions")}
        placed = {one.id: one for group in (self.assignment.groups if self.assignment else []) for one in group.instances}
        for name in self.engines.keys() - up:
            del self.engines[name]
        for name in up & placed.keys() - self.engines.keys():
            self.engines[name] = Engine(placed[name], EngineState.SERVING, self.now_ms)

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pods of the service, by instance, after scheduler and kubelet did their part."""
        assert self.cluster is not None
        self.cluster.be_kubelet("llm")
        found = self.cluster.call("GET", "/api/v1/namespaces/llm/pods?labelSelector=heteroscale.io/service=chat")
        return {pod["metadata"]["labels"]["heteroscale.io/instance"]: pod for pod in found["items"]}

    def replicas(self, role: str) -> int:
        """What the Deployment of a role is scaled to."""
        assert self.cluster is not None
        scale = self.cluster.call("GET", f"/apis/apps/v1/namespaces/llm/deployments/chat-{role}/scale")
        return int(scale["spec"].get("replicas") or 0)

    def _follow(self) -> list[Actuation]:
        return []

    async def hop_until(self, wanted: dict[str, int]) -> None:
        """Hops, and looks between them, until so many are ready and nothing is under way."""
        for _ in range(40):
            await self.hop()
            for _ in range(3):
                await self.look()
                await asyncio.sleep(0.25)
            await self.until(lambda: True, "what there is to read")
            if self.count(InstanceState.READY) == wanted == self.count():
                return
        raise AssertionError(f"{wanted} never came: {self.assignment}")


@pytest.mark.kafka
@pytest.mark.redis
def test_a_decision_of_the_running_loop_scales_real_deployments(
    cluster: KubeServers, kafka: str, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    """Load → window → decision → reservation → /scale → ready pods on reserved nodes → the inventory says so; and back again.

    Every part is a process of its own, on real Kafka, real Redis and a real API server.
    """
    listed = [{"service": "chat", "role": role, "namespace": "llm", "name": f"chat-{role}", "pin": True} for role in RATIO]
    (tmp_path / "targets.yaml").write_text(yaml.safe_dump({"targets": listed}))
    cluster.kubeconfig(tmp_path / "kubeconfig", cluster.token_of("kubernetes-actuator", "heteroscale"))
    actuator = {
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "HETEROSCALE_ACTUATOR_KIND": "kubernetes",
        "HETEROSCALE_ACTUATOR_TARGETS": str(tmp_path / "targets.yaml"),
        "HETEROSCALE_ACTUATOR_DRAIN_MS": "500",
    }
    with loop_world.opened(tmp_path, kafka, redis_url, prefix) as world:
        for name in SERVICES:
            world.start(name)
        world.start("actuator", extra=actuator)
        asyncio.run(_there_and_back(world, cluster))


async def _there_and_back(world: Fleet, cluster: KubeServers) -> None:
    """A step up, a step down."""
    async with plant_of(world, ClusterPlant) as plant:
        plant.cluster = cluster
        await plant.hop_until({"prefill": 1, "decode": 2})
        plant.demand = dict(HIGH)
        await plant.hop_until({"prefill": 2, "decode": 4})
        assert {"prefill": 2, "decode": 4} == {role: plant.replicas(role) for role in RATIO}
        assert plant.assignment is not None
        where = {one.id: set(one.nodes) for group in plant.assignment.groups for one in group.instances}
        pods = await asyncio.to_thread(plant.pods)
        assert where == {name: {pod["spec"]["nodeName"]} for name, pod in pods.items()}, "each pod is on its reserved node"
        rows = world.run("inventory", "show", "--fleet", plant.fleet, "--json").splitlines()
        held = {row["node"]: row["held"] for row in map(json.loads, rows) if row["held"]}
        assert held == {node: 8 for nodes in where.values() for node in nodes}, "the inventory shows it"
        plant.demand = dict(LOW)
        await plant.hop_until({"prefill": 1, "decode": 2})
        assert {"prefill": 1, "decode": 2} == {role: plant.replicas(role) for role in RATIO}
        assert 3 == len(await asyncio.to_thread(plant.pods))
        world.run("inventory", "check")
        assert "" == world.run("dead-letters", "list", "--json").strip()


async def test_without_the_rights_it_says_which_one_is_missing(cluster: KubeServers) -> None:
    """403 from a real authorizer names the right to grant; a target that is not there is no error."""
    api = ClusterApi(cluster.client(cluster.token_of("kubernetes-actuator", "heteroscale")))
    with pytest.raises(Delayed, match="grant: get deployments/scale"):
        await api.scale(ScaleTarget(service="s", role="r", namespace="heteroscale", name="elsewhere"))
    assert await api.scale(ScaleTarget(service="s", role="r", namespace="llm", name="not-there")) is None
    await api.close()
