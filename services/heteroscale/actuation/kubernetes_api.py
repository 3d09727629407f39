"""The API server, as far as the actuator needs it: scales, watched pods, node labels, rivals. lightkube's errors become ours here.

409 a write came between: look again at once       403, 401 a right is missing: said, and tried again each half minute
429 and Retry-After: when it says                  404 of a target: it has vanished, and with it its pods
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import httpx2
from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.core_v1 import Node, Pod
from lightkube.types import PatchType

from heteroscale.actuation import kubernetes_plan
from heteroscale.actuation.desks import Delayed
from heteroscale.actuation.kubernetes_plan import PodPatch, PodView
from heteroscale.actuation.kubernetes_targets import ScaleTarget
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.names import ServiceName
from heteroscale.runtime import retry_after
from heteroscale.runtime.pod_watch import PodWatch

CALL_LIMIT_S: Final = 15.0
CONFLICT_PAUSE_S: Final = 0.1
THROTTLE_PAUSE_S: Final = 2.0
FORBIDDEN_PAUSE_S: Final = 30.0
_WORKER_INDEX: Final = "leaderworkerset.sigs.k8s.io/worker-index"
_ORDINALS: Final = ("leaderworkerset.sigs.k8s.io/group-index", "apps.kubernetes.io/pod-index")
_TRAILING = re.compile(r"-(\d+)$")
ScaledObject: Final[Any] = create_namespaced_resource("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects")


class ScaleView(NamedTuple):
    """A target's /scale."""

    replicas: int
    selector: dict[str, str]
    version: str


class ClusterApi:
    """Calls with a limit each. Raises Retryable (Delayed where the wait is known)."""

    def __init__(self, client: AsyncClient, changed: Callable[[ServiceName], None] = lambda _service: None) -> None:
        """`changed` is told the service of a target of which a pod changed."""
        self._client = client
        self._changed = changed
        self._watches: dict[str, tuple[dict[str, str], PodWatch]] = {}  # by target: what it selects its pods by, and who follows them

    async def scale(self, target: ScaleTarget) -> ScaleView | None:
        """How far the target is scaled; null if there is no such object."""
        async with _translated(f"reading the scale of {target}", f"get {target.resource[2]}/scale"):
            try:
                found = await self._client.get(_resource(target).Scale, target.name, namespace=target.namespace)
            except httpx2.HTTPStatusError as error:
                if error.response.status_code == 404:
                    return None
                raise
        selector = found.status.selector if found.status is not None else None
        return ScaleView((found.spec and found.spec.replicas) or 0, _pairs(selector, target), found.metadata.resourceVersion)

    async def set_scale(self, target: ScaleTarget, replicas: int, version: str) -> None:
        """Scale, unless somebody wrote since `version`."""
        body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        async with _translated(f"scaling {target} to {replicas}", f"patch {target.resource[2]}/scale"):
            scale = _resource(target).Scale
            await self._client.patch(scale, target.name, body, namespace=target.namespace, patch_type=PatchType.MERGE)

    async def pods(self, target: ScaleTarget, selector: Mapping[str, str]) -> list[PodView]:
        """The pods of a target, one an instance, as they are watched."""
        async with _translated(f"watching the pods of {target}", "list and watch pods"):
            watch = await self._watch(target, dict(selector))
            found = await watch.pods()
        return [view for pod in found if (view := pod_view(pod)) is not None]

    async def _watch(self, target: ScaleTarget, selector: dict[str, str]) -> PodWatch:
        """The one of a target; a target that was made anew may select other pods."""
        known = self._watches.get(str(target))
        if known is not None and known[0] == selector:
            return known[1]
        watch = PodWatch(self._client, target.namespace, selector, functools.partial(self._changed, target.service))
        self._watches[str(target)] = (selector, watch)
        if known is not None:
            await known[1].close()
        return watch

    async def patch_pod(self, target: ScaleTarget, patch: PodPatch, now_ms: int) -> None:
        """Label, annotate, and turn the readiness gate. A pod that has gone meanwhile is no error."""
        if patch.labels or patch.annotations:
            body = {"metadata": {"labels": patch.labels, "annotations": patch.annotations}}
            async with _translated(f"labelling pod {patch.pod}", "patch pods", gone_is_fine=True):
                self._note(target, await self._client.patch(Pod, patch.pod, body, namespace=target.namespace, patch_type=PatchType.MERGE))
        if patch.gate is not None:
            status = {
                "status": {"conditions": [_gate(now_ms, routable=patch.gate)]}
            }  # merged by type, so that no other condition is touched
            async with _translated(f"turning the readiness gate of pod {patch.pod}", "patch pods/status", gone_is_fine=True):
                turned = await self._client.patch(Pod.Status, patch.pod, status, namespace=target.namespace, patch_type=PatchType.STRATEGIC)
                self._note(target, Pod(metadata=turned.metadata, spec=turned.spec, status=turned.status))

    def _note(self, target: ScaleTarget, pod: Pod) -> None:
        known = self._watches.get(str(target))
        if known is not None:
            known[1].note(pod)

    async def delete_pod(self, target: ScaleTarget, pod: str) -> None:
        """Its controller starts another if it is to have as many."""
        async with _translated(f"deleting pod {pod}", "delete pods", gone_is_fine=True):
            await self._client.delete(Pod, pod, namespace=target.namespace)

    async def rivals(self, target: ScaleTarget) -> list[str]:
        """Other autoscalers of the same target: HorizontalPodAutoscalers, and KEDA's ScaledObjects that are not paused."""
        found = []
        async with _translated(f"looking for autoscalers of {target}", "list horizontalpodautoscalers"):
            async for hpa in self._client.list(HorizontalPodAutoscaler, namespace=target.namespace):
                reference = hpa.spec.scaleTargetRef if hpa.spec is not None else None
                if reference is not None and (reference.kind, reference.name) == (target.kind, target.name) and hpa.metadata is not None:
                    found.append(f"HorizontalPodAutoscaler/{hpa.metadata.name}")
        async with _translated(f"looking for KEDA objects of {target}", "list scaledobjects", gone_is_fine=True):
            async for one in self._client.list(ScaledObject, namespace=target.namespace):
                aim = (one.get("spec") or {}).get("scaleTargetRef") or {}
                annotations = one.metadata.annotations or {}
                if (aim.get("kind") or "Deployment", aim.get("name")) != (target.kind, target.name):
                    continue
                if not any(key.startswith("autoscaling.keda.sh/paused") for key in annotations):
                    found.append(f"ScaledObject/{one.metadata.name}")
        return sorted(found)

    async def labelled_nodes(self, label: str) -> set[str]:
        """Nodes that carry a label."""
        async with _translated(f"listing the nodes with {label}", "list nodes"):
            labels: dict[str, Any] = {label: None}
            return {node.metadata.name or "" async for node in self._client.list(Node, labels=labels) if node.metadata is not None}

    async def label_node(self, node: str, label: str, value: str | None) -> None:
        """Label a node, or take the label off. A node that is not there (yet) is no error."""
        async with _translated(f"labelling node {node}", "patch nodes", gone_is_fine=True):
            await self._client.patch(Node, node, {"metadata": {"labels": {label: value}}}, patch_type=PatchType.MERGE)

    async def close(self) -> None:
        """Let go of watches and connections."""
        for _, watch in self._watches.values():
            await watch.close()
        await self._client.close()


def client() -> AsyncClient:
    """By the pod's service account, KUBECONFIG or ~/.kube/config. Raises Rejected that says so."""
    try:
        return AsyncClient(field_manager="heteroscale")
    except (ConfigError, OSError, ValueError) as error:
        raise Rejected("kubernetes", f"{error}; run in a pod with a service account, or set KUBECONFIG") from error


def pod_view(pod: Pod) -> PodView | None:
    """What matters of a pod; null for one that is not the first of its instance."""
    if pod.metadata is None or pod.metadata.name is None:
        return None
    labels, annotations = pod.metadata.labels or {}, pod.metadata.annotations or {}
    if labels.get(_WORKER_INDEX, "0") != "0":
        return None
    listed = (pod.status.conditions if pod.status is not None else None) or []
    conditions = {one.type: one.status == "True" for one in listed}
    gates = [one.conditionType for one in (pod.spec.readinessGates if pod.spec is not None else None) or []]
    ours = kubernetes_plan.ROUTABLE in gates
    others = [gate for gate in gates if gate != kubernetes_plan.ROUTABLE]
    since = annotations.get(kubernetes_plan.STOPPING_SINCE, "")
    return PodView(
        name=pod.metadata.name,
        node=pod.spec.nodeName if pod.spec is not None else None,
        instance=labels.get(kubernetes_plan.INSTANCE),
        labels=labels,
        cost=annotations.get(kubernetes_plan.COST),
        stopping_since_ms=int(since) if since.isdecimal() else None,
        ready=all(conditions.get(one, False) for one in (["ContainersReady", *others] if ours else ["Ready"])),
        gated=ours,
        gate=conditions.get(kubernetes_plan.ROUTABLE, False),
        failed=pod.status is not None and pod.status.phase in {"Failed", "Succeeded"},
        deleting=pod.metadata.deletionTimestamp is not None,
        ordinal=_ordinal(pod.metadata.name, labels),
    )


def _gate(now_ms: int, *, routable: bool) -> dict[str, str]:
    """The pod condition that our readiness gate names."""
    return {
        "type": kubernetes_plan.ROUTABLE,
        "status": str(routable),
        "reason": "Routable" if routable else "NotRoutable",
        "lastTransitionTime": datetime.fromtimestamp(now_ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _ordinal(name: str, labels: Mapping[str, str]) -> int | None:
    text = next((labels[key] for key in _ORDINALS if key in labels), None)
    if text is None and (found := _TRAILING.search(name)) is not None:
        text = found[1]
    return int(text) if text is not None and text.isdecimal() else None


def _resource(target: ScaleTarget) -> Any:
    """The target's kind, as lightkube knows kinds (made once); under a name of its own, for it has some of them already."""
    group, version, plural = target.resource
    return create_namespaced_resource(group, version, f"Scaled{target.kind}", plural)


def _pairs(selector: str | None, target: ScaleTarget) -> dict[str, str]:
    """A selector of `key=value` terms. Raises Delayed for any other: its pods could not be told."""
    terms = [term.partition("=") for term in (selector or "").split(",") if term]
    if not terms or not all(equals and key and "(" not in value for key, equals, value in terms):
        raise Delayed(f"{target} selects its pods by {selector!r}; only key=value terms are understood", FORBIDDEN_PAUSE_S)
    return {key.strip(): value.lstrip("=").strip() for key, _, value in terms}


@asynccontextmanager
async def _translated(what: str, right: str, *, gone_is_fine: bool = False) -> AsyncIterator[None]:
    """A call within its limit, its errors as ours."""
    try:
        async with asyncio.timeout(CALL_LIMIT_S):
            yield
    except httpx2.HTTPStatusError as error:  # lightkube's ApiError is one; a proxy's page in its place is only this
        if error.response.status_code == 404 and gone_is_fine:
            return
        raise _ours(error, what, right) from error
    except (httpx2.HTTPError, OSError, TimeoutError, ValueError, LookupError) as error:
        raise Retryable(f"{what}: {error or type(error).__name__}") from error


def _ours(error: httpx2.HTTPStatusError, what: str, right: str) -> Retryable:
    code, message = error.response.status_code, str(error).splitlines()[0]
    if code == 409:
        return Delayed(f"{what}: somebody wrote meanwhile", CONFLICT_PAUSE_S)
    if code in {401, 403}:
        return Delayed(f"{what} is forbidden ({message}); grant: {right}", FORBIDDEN_PAUSE_S)
    if code == 429:
        after_s = retry_after.wait_s(error.response.headers)
        return Delayed(f"{what}: throttled", THROTTLE_PAUSE_S if after_s is None else after_s)
    if 400 <= code < 500:
        return Delayed(f"{what}: {message}", FORBIDDEN_PAUSE_S)
    return Retryable(f"{what}: {message}")
