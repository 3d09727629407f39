"""Placements for the service `solo`, acknowledgements back, and a real cluster between: what the tests against an API server share."""

from __future__ import annotations

import asyncio
from typing import Final

import yaml

from heteroscale.bus import scan
from heteroscale.bus.log import Log
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.placements import InstanceState, PlacedInstance
from heteroscale.contracts.topics import Topic, topic_name
from support import builders
from support.kube_servers import ROOT, KubeServers

PREFIX: Final = "memory"
WITHIN_S: Final = 45.0
_SLICES: Final = "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices"


def grant(cluster: KubeServers) -> None:
    """The namespaces, and the rights of our manifest."""
    for name in ("heteroscale", "llm"):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for document in yaml.safe_load_all((ROOT / "infra/kubernetes/kubernetes-actuator/rbac.yaml").read_text()):
        cluster.apply(document)


def deployment(service: str, role: str, *, gated: bool = False, alone: bool = False) -> dict[str, object]:
    """Nothing at first; its pods run on nodes that are reserved for them, `alone`: one a node, as if it needed all of its GPUs."""
    name = f"{service}-{role}"
    labels = {"app": name}
    pod: dict[str, object] = {
        "nodeSelector": {f"heteroscale.io/{service}.{role}": "reserved"},
        "containers": [{"name": "engine", "image": "engine"}],
        "terminationGracePeriodSeconds": 0,
        "readinessGates": [{"conditionType": "heteroscale.io/routable"}] if gated else [],
    }
    if alone:
        rule = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
        pod["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [rule]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "llm"}, "spec": spec}


def service(app: str) -> dict[str, object]:
    """A Service of all pods of an application: who is ready is for its EndpointSlice to say."""
    spec = {"clusterIP": "None", "selector": {"app": app}, "ports": [{"port": 8000}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": app, "namespace": "llm"}, "spec": spec}


def placed(name: str, state: InstanceState, node: str, *, routable: bool = False) -> PlacedInstance:
    """A prefill instance on one node."""
    return PlacedInstance(id=name, role="prefill", gpu_type="H20", nodes={node: 8}, state=state, since_ms=0, routable=routable)


class KubeLoop:
    """Placements in, acknowledgements out, and the world between."""

    def __init__(self, log: Log, cluster: KubeServers, *, is_kubelet: bool) -> None:
        self._log = log
        self._cluster = cluster
        self._is_kubelet = is_kubelet
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
        """Wait until these were acknowledged."""
        async with asyncio.timeout(WITHIN_S):
            while not set(wanted) <= await self.said():
                await self._live()

    async def _live(self) -> None:
        """A moment of the world: if nobody else is, be scheduler and kubelet."""
        if self._is_kubelet:
            await asyncio.to_thread(self._cluster.be_kubelet, "llm")
        await asyncio.sleep(0.1)

    async def until_routed(self, wanted: set[str]) -> None:
        """Wait until the EndpointSlice has these instances, and no others, as ready."""
        async with asyncio.timeout(WITHIN_S):
            while await asyncio.to_thread(self._routed) != wanted:
                await self._live()

    def _routed(self) -> set[str]:
        pods = self._cluster.call("GET", "/api/v1/namespaces/llm/pods?labelSelector=app=solo-prefill")["items"]
        names = {pod["metadata"]["name"]: (pod["metadata"].get("labels") or {}).get("heteroscale.io/instance", "") for pod in pods}
        slices = self._cluster.call("GET", f"{_SLICES}?labelSelector=kubernetes.io/service-name=solo-prefill")["items"]
        found = [one for listed in slices for one in listed.get("endpoints") or []]
        return {names.get(one["targetRef"]["name"], "") for one in found if one["conditions"].get("ready")}

    async def pods(self) -> dict[str, dict[str, str]]:
        """Labels and node of each pod, by its instance."""
        found = await asyncio.to_thread(self._cluster.call, "GET", "/api/v1/namespaces/llm/pods?labelSelector=app=solo-prefill")
        labelled = [(pod["metadata"].get("labels") or {}, pod["spec"].get("nodeName", "")) for pod in found["items"]]
        return {labels.get("heteroscale.io/instance", ""): {**labels, "node": node} for labels, node in labelled}
