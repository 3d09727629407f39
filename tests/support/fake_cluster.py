"""A Kubernetes API over loopback HTTP, as far as the actuator uses one, with a controller that keeps replicas and a scheduler.

Names, rules and answers follow the real server: merge patches, watches, 409 on an old resourceVersion, 404, and whatever `fail` is told
to say. `mischief` is what the next watches do instead of what they should, one after the other.
The controller ends pods that are not scheduled first, then those not ready, then the cheapest by pod-deletion-cost.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web
from lightkube import AsyncClient, KubeConfig
from lightkube.config.models import Cluster, User

COST = "controller.kubernetes.io/pod-deletion-cost"
_SCALE = re.compile(r"^/apis/(?P<api>.+)/namespaces/(?P<ns>[^/]+)/(?P<plural>[^/]+)/(?P<name>[^/]+)/scale$")
_LIST = re.compile(r"^/apis/.+/namespaces/(?P<ns>[^/]+)/(?P<plural>horizontalpodautoscalers|scaledobjects)$")
_POD = re.compile(r"^/api/v1/namespaces/(?P<ns>[^/]+)/pods(/(?P<name>[^/]+)(/status)?)?$")
MISCHIEF = ("gone", "gone-event", "ends", "hangs-up", "half-a-line", "nonsense", "no-version", "breaks", "silent", "error-event")
_NODE = re.compile(r"^/api/v1/nodes(/(?P<name>[^/]+))?$")


class FakeCluster:
    """`async with FakeCluster() as cluster`; `cluster.client()` talks to it; `tick()` lets its controllers act."""

    def __init__(self) -> None:
        self.targets: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, str]] = {}
        self.rivals: dict[str, list[dict[str, Any]]] = {"horizontalpodautoscalers": [], "scaledobjects": []}
        self.fail: list[tuple[str, str, int, dict[str, str]]] = []
        self.calls: list[tuple[str, str]] = []
        self.place: Callable[[str], str | None] = lambda _pod: "n1"
        self.becomes_ready = True
        self.gated = False
        self.mischief: list[str] = []
        self.version = 1
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._shown: dict[str, dict[str, Any]] = {}
        self._forgotten = 0
        self._count = 0
        self._runner: web.AppRunner | None = None
        self._url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._closing = asyncio.Event()
        self._broken = asyncio.Event()
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self._closing.set()
        await self._runner.cleanup()

    def client(self) -> AsyncClient:
        """A client of this cluster."""
        config = KubeConfig.from_one(cluster=Cluster(server=self._url), user=User(token="t"))  # noqa: S106 - nobody checks it
        return AsyncClient(config=config, field_manager="heteroscale", trust_env=False)

    def add_target(self, name: str, replicas: int = 0, plural: str = "deployments") -> None:
        """Something with /scale."""
        self.targets[name] = {"replicas": replicas, "version": 1, "plural": plural}

    def add_pod(self, target: str, name: str, *, node: str | None = "n1", ready: bool = True, labels: dict[str, str] | None = None) -> None:
        """A pod of a target."""
        self._count += 1
        self.pods[name] = {
            "target": target,
            "node": node,
            "ready": ready,
            "labels": dict(labels or {}),
            "annotations": {},
            "age": self._count,
            "phase": "",
            "gate": None,
        }

    def publish(self) -> int:
        """Tell the watches what has changed; the newest version."""
        documents = {name: self._pod_document(name) for name in self.pods}
        for name in sorted(documents.keys() | self._shown.keys()):
            before, after = self._shown.get(name), documents.get(name)
            if before == after:
                continue
            kind = "DELETED" if after is None else "ADDED" if before is None else "MODIFIED"
            self.version += 1
            self._events.append((self.version, kind, copy.deepcopy(after or before or {})))
        self._shown = copy.deepcopy(documents)
        return self.version

    def break_watches(self) -> None:
        """Hang up on all that run."""
        self._broken.set()
        self._broken = asyncio.Event()

    def forget(self) -> None:
        """Compaction: no watch can go on from a version of before."""
        self.publish()
        self._forgotten = self.version

    def tick(self) -> None:
        """Controllers and scheduler: as many pods as replicas, each on a node, ready if they become so."""
        for name, target in self.targets.items():
            own = [pod for pod, said in self.pods.items() if said["target"] == name and said["phase"] != "Failed"]
            for _ in range(target["replicas"] - len(own)):
                self._count += 1
                self.add_pod(name, f"{name}-{self._count}", node=None, ready=False)
            for pod in sorted(own, key=self._rank)[: max(0, len(own) - target["replicas"])]:
                del self.pods[pod]
        for pod, said in self.pods.items():
            if said["node"] is None:
                said["node"] = self.place(pod)
            said["ready"] = said["ready"] or (said["node"] is not None and self.becomes_ready and said["phase"] != "Failed")
        self.publish()

    def _rank(self, pod: str) -> tuple[bool, bool, int, int]:
        said = self.pods[pod]
        return said["node"] is not None, said["ready"], int(said["annotations"].get(COST, "0")), -said["age"]

    def instances(self) -> dict[str, str]:
        """Pod by instance."""
        return {
            said["labels"]["heteroscale.io/instance"]: pod for pod, said in self.pods.items() if "heteroscale.io/instance" in said["labels"]
        }

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.calls.append(("WATCH" if "watch" in request.query else request.method, path))
        for number, (method, part, status, headers) in enumerate(self.fail):
            if method == request.method and part in path:
                del self.fail[number]
                return _status(status, "as told", headers)
        body = json.loads(await request.read() or b"{}")
        if (found := _SCALE.match(path)) is not None:
            return self._scale(request.method, found, body)
        if (found := _LIST.match(path)) is not None:
            return _list(self.rivals[found["plural"]])
        if (found := _POD.match(path)) is not None:
            is_watch = request.query.get("watch") == "true"
            return await self._watch(request) if is_watch else self._pod(request, found["name"], body)
        if (found := _NODE.match(path)) is not None:
            return self._node(request, found["name"], body)
        return _status(404, path)

    def _scale(self, method: str, found: re.Match[str], body: dict[str, Any]) -> web.Response:
        target = self.targets.get(found["name"])
        if target is None or target["plural"] != found["plural"]:
            return _status(404, "no such object")
        if method == "PATCH":
            if str(body["metadata"]["resourceVersion"]) != str(target["version"]):
                return _status(409, "the object has been modified")
            target["replicas"] = body["spec"]["replicas"]
            target["version"] += 1
        meta = {"name": found["name"], "namespace": found["ns"], "resourceVersion": str(target["version"])}
        status = {"replicas": 0, "selector": f"app={found['name']}"}
        kind = {"apiVersion": "autoscaling/v1", "kind": "Scale"}
        return web.json_response(kind | {"metadata": meta, "spec": {"replicas": target["replicas"]}, "status": status})

    def _pod(self, request: web.Request, name: str | None, body: dict[str, Any]) -> web.Response:
        if name is None:
            target = request.query["labelSelector"].partition("=")[2]
            version = self.publish()
            return _list([self._versioned(pod) for pod, said in self.pods.items() if said["target"] == target], version)
        if name not in self.pods:
            return _status(404, "no such pod")
        if request.method == "DELETE":
            del self.pods[name]
            return _status(200, "deleted")
        for condition in (body.get("status") or {}).get("conditions") or []:
            self.pods[name]["gate"] = condition["status"]
        self.pods[name]["labels"] |= body.get("metadata", {}).get("labels") or {}
        self.pods[name]["annotations"] |= body.get("metadata", {}).get("annotations") or {}
        self.publish()
        return web.json_response(self._versioned(name))

    def _versioned(self, name: str) -> dict[str, Any]:
        """A pod as it is now, under the version at which it became so."""
        newest = max((version for version, _, document in self._events if document["metadata"]["name"] == name), default=1)
        return _at(newest, self._pod_document(name))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """Events since a version, as they come; a bookmark when there is nothing new."""
        since = int(request.query["resourceVersion"])
        mischief = self.mischief.pop(0) if self.mischief else ""
        if mischief in {"gone", "breaks"} or since < self._forgotten:
            return _status(500 if mischief == "breaks" else 410, mischief or "too old resource version")
        response, broken = web.StreamResponse(), self._broken
        await response.prepare(request)
        bad = _BAD_LINES.get(mischief)
        if bad is not None:
            await response.write(bad)
        if mischief == "hangs-up" and request.transport is not None:
            request.transport.abort()
        target = request.query["labelSelector"].partition("=")[2]
        while not mischief and not self._closing.is_set():
            fresh = [event for event in self._events if event[0] > since and event[2]["metadata"]["ownerReferences"][0]["name"] == target]
            lines = [{"type": kind, "object": _at(version, document)} for version, kind, document in fresh]
            if not fresh and self.version > since:
                lines = [{"type": "BOOKMARK", "object": _at(self.version, {"kind": "Pod", "apiVersion": "v1", "metadata": {}})}]
            since = max(since, self.version) if lines else since
            for line in lines:
                await response.write(json.dumps(line).encode() + b"\n")
            await asyncio.sleep(0.005)
            if broken.is_set() and request.transport is not None:
                request.transport.abort()
                break
        while mischief in {"half-a-line", "silent"} and not self._closing.is_set():
            await asyncio.sleep(0.02)
        return response

    def _pod_document(self, name: str) -> dict[str, Any]:
        said = self.pods[name]
        ready = said["ready"] and not said["phase"]
        routed = not self.gated or said["gate"] == "True"
        conditions = [{"type": "ContainersReady", "status": str(ready)}, {"type": "Ready", "status": str(ready and routed)}]
        if said["gate"] is not None:
            conditions.append({"type": "heteroscale.io/routable", "status": said["gate"]})
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": said["target"], "uid": said["target"]}
        gates = [{"conditionType": "heteroscale.io/routable"}] if self.gated else []
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": said["labels"], "annotations": said["annotations"], "ownerReferences": [owner]},
            "spec": {"nodeName": said["node"], "containers": [], "readinessGates": gates},
            "status": {"phase": said["phase"] or "Running", "conditions": conditions, "podIP": "10.0.0.7", "hostIP": "10.9.0.1"},
        }

    def _node(self, request: web.Request, name: str | None, body: dict[str, Any]) -> web.Response:
        if name is None:
            label = request.query["labelSelector"]
            return _list([_node_document(node, labels) for node, labels in self.nodes.items() if label in labels])
        if name not in self.nodes:
            return _status(404, "no such node")
        for label, value in body["metadata"]["labels"].items():
            if value is None:
                self.nodes[name].pop(label, None)
            else:
                self.nodes[name][label] = value
        return web.json_response(_node_document(name, self.nodes[name]))


def _node_document(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


_BAD_LINES = {
    "half-a-line": b'{"type": "MODIFIED", "object": {"meta',
    "nonsense": b"<html>bad gateway</html>\n",
    "no-version": b'{"type": "ADDED", "object": {"metadata": {"name": "x"}}}\n',
    "gone-event": b'{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}\n',
    "error-event": b'{"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd is away"}}\n',
}


def _at(version: int, document: dict[str, Any]) -> dict[str, Any]:
    """A document under a version."""
    return document | {"metadata": document["metadata"] | {"resourceVersion": str(version)}}


def _list(items: list[dict[str, Any]], version: int = 1) -> web.Response:
    return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": str(version)}, "items": items})


def _status(code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    status = "Success" if code < 400 else "Failure"
    document = {"kind": "Status", "apiVersion": "v1", "status": status, "message": message, "reason": "told", "code": code}
    body = json.dumps(document).encode()
    return web.Response(body=body, status=code, headers={"Content-Type": "application/json"} | (headers or {}))
