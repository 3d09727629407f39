"""The Kubernetes actuator against a real API server with real Deployment controllers, under the rights of our manifest and no others."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from lightkube.resources.core_v1 import Pod

from heteroscale.actuation import app, kubernetes_api
from heteroscale.actuation.desks import Delayed
from heteroscale.actuation.kubernetes_api import ClusterApi
from heteroscale.actuation.kubernetes_targets import ScaleTarget
from heteroscale.actuation.settings import ActuatorKind, ActuatorSettings
from heteroscale.bus import catalogue
from heteroscale.bus.log import Log
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.placements import InstanceState
from heteroscale.contracts.telemetry import EngineState
from heteroscale.contracts.topics import Topic
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.pod_watch import PodWatch
from heteroscale.telemetry.export_pods import Pods
from heteroscale.telemetry.export_settings import ExportSettings
from support import capabilities, loop_world
from support.kube_loop import PREFIX, KubeLoop, deployment, grant, placed, service
from support.kube_servers import ROOT, KubeServers, binaries
from support.loop_world import HIGH, LOW, NODES, RATIO, SERVICES, plant_of
from support.plant import Engine, Plant
from support.processes import Fleet

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(180)]

AtEnd = list[Callable[[], Awaitable[None]]]
TOPICS = (Topic.PLACEMENTS, Topic.ACTUATIONS, Topic.DEAD_LETTERS, Topic.TELEMETRY)
LABEL = "heteroscale.io/solo.prefill"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServers]:
    """A cluster with our rights, nodes, and Deployments that select reserved ones; the one of `solo` has our readiness gate."""
    capability = capabilities.look("kube-apiserver", binaries)
    if not capability.available:
        capabilities.missing(capability)
    servers = KubeServers(tmp_path_factory.mktemp("kubernetes"))
    try:
        servers.start()
        grant(servers)
        for node in ("n1", "n2", *NODES):
            servers.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        for document in (
            deployment("solo", "prefill", gated=True),
            service("solo-prefill"),
            *(deployment("chat", role) for role in RATIO),
        ):
            servers.apply(document)
        yield servers
    finally:
        servers.stop()


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
    loop = KubeLoop(memory_log, cluster, is_kubelet=True)

    await loop.place(placed("a", InstanceState.RESERVED, "n1"), placed("b", InstanceState.RESERVED, "n2"))
    await loop.until(("a", "starting"), ("a", "ready"), ("b", "starting"), ("b", "ready"))
    pods = await loop.pods()
    assert {"a": "n1", "b": "n2"} == {name: pod["node"] for name, pod in pods.items()}
    await loop.until_routed(set())
    await loop.place(placed("a", InstanceState.READY, "n1", routable=True), placed("b", InstanceState.READY, "n2", routable=True))
    await loop.until_routed({"a", "b"})

    await loop.place(placed("a", InstanceState.STOPPING, "n1"), placed("b", InstanceState.READY, "n2", routable=True))
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
    monkeypatch.setattr("heteroscale.actuation.kubernetes.SETTLED_S", 0.5)
    await loop.place(placed("b", InstanceState.READY, "n2", routable=True), placed("c", InstanceState.RESERVED, "n1"))
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
            for _ in range(4):
                await self.look()
                await self._read(timeout_ms=150)
                if not self._follow_pending():
                    break
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


async def test_a_write_that_came_too_late_is_refused_by_the_api_server(cluster: KubeServers, at_end: AtEnd) -> None:
    """409 from the real server: somebody scaled since we looked (a controller does, too); the next look sees it."""
    api = ClusterApi(cluster.client(cluster.token_of("kubernetes-actuator", "heteroscale")))
    at_end.append(api.close)
    target = ScaleTarget(service="spare", role="r", namespace="llm", name="spare-r")
    await asyncio.to_thread(cluster.apply, deployment("spare", "r"))

    async def scaled() -> str:
        while True:
            seen = await api.scale(target)
            assert seen is not None
            with contextlib.suppress(Delayed):
                await api.set_scale(target, 2, seen.version)
                return seen.version

    async with asyncio.timeout(20):
        version = await scaled()
    with pytest.raises(Delayed, match="somebody wrote meanwhile"):
        await api.set_scale(target, 0, version)
    again = await api.scale(target)
    assert again is not None
    assert 2 == again.replicas
    await asyncio.to_thread(cluster.call, "DELETE", "/apis/apps/v1/namespaces/llm/deployments/spare-r")


async def test_a_watch_outlives_the_api_server(cluster: KubeServers, at_end: AtEnd) -> None:
    """It goes on where it stopped; one whose version the new server does not know (410) lists anew and sees the same."""
    client = cluster.client(cluster.token_of("kubernetes-actuator", "heteroscale"))
    watch = PodWatch(client, "llm", {"app": "watched"}, lambda: None)
    at_end += [client.close, watch.close]
    path = "/api/v1/namespaces/llm/pods"
    spec = {"containers": [{"name": "engine", "image": "engine"}], "terminationGracePeriodSeconds": 0}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "watched", "labels": {"app": "watched"}}, "spec": spec}
    assert [] == await watch.pods()
    await asyncio.to_thread(cluster.call, "POST", path, pod)
    await _until_seen(watch, 1)
    await asyncio.to_thread(cluster.restart_api)
    late = PodWatch(client, "llm", {"app": "watched"}, lambda: None)
    late.version = "1"
    at_end.append(late.close)
    await _until_seen(late, 1)
    assert late.version != "1", "it did not go on from there"
    await asyncio.to_thread(cluster.call, "DELETE", f"{path}/watched?gracePeriodSeconds=0")
    for one in (watch, late):
        await _until_seen(one, 0)


async def _until_seen(watch: PodWatch, pods: int) -> None:
    """Wait for so many pods in the picture; a server that has just started may forbid what it will allow."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if len(await watch.pods()) == pods:
                    return
            await asyncio.sleep(0.02)


async def test_an_exporter_finds_its_pods_under_its_own_rights(cluster: KubeServers, at_end: AtEnd) -> None:
    """The manifest's account may list and watch pods there, and nothing else."""
    for document in yaml.safe_load_all((ROOT / "infra/kubernetes/exporter/rbac.yaml").read_text()):
        await asyncio.to_thread(cluster.apply, document)
    source = Pods.parse("llm/heteroscale.io/service=nobody:8000", ExportSettings())
    source.client = cluster.client(cluster.token_of("exporter", "heteroscale"))
    at_end.append(source.close)
    assert [] == await source.targets()
    with pytest.raises(httpx2.HTTPStatusError, match="forbidden"):
        await source.client.delete(Pod, "any", namespace="llm")


async def test_without_the_rights_it_says_which_one_is_missing(cluster: KubeServers, at_end: AtEnd) -> None:
    """403 from a real authorizer names the right to grant; a target that is not there is no error."""
    api = ClusterApi(cluster.client(cluster.token_of("kubernetes-actuator", "heteroscale")))
    at_end.append(api.close)
    with pytest.raises(Delayed, match="grant: get deployments/scale"):
        await api.scale(ScaleTarget(service="s", role="r", namespace="heteroscale", name="elsewhere"))
    assert await api.scale(ScaleTarget(service="s", role="r", namespace="llm", name="not-there")) is None
