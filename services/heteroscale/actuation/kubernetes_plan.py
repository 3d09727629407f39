"""What to change on one scale target so that its pods become the instances of an assignment. Pure: pods and tasks in, steps out.

A pod *is* an instance once it carries its id as a label. Pods of a new replica are given to instances that have none, those on reserved
nodes first. An instance that is to stop keeps its pod, out of routing, until its work is done; then the pod is marked as the cheapest to
delete and the target is scaled. What nobody here started or placed is left alone (FAIL-STATIC).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from heteroscale.actuation.kubernetes_targets import DOMAIN
from heteroscale.actuation.orders import Order, Task
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.placements import InstanceState

INSTANCE: Final = f"{DOMAIN}/instance"
SERVICE: Final = f"{DOMAIN}/service"
ROLE: Final = f"{DOMAIN}/role"
ROUTABLE: Final = f"{DOMAIN}/routable"
COST: Final = "controller.kubernetes.io/pod-deletion-cost"
STOPPING_SINCE: Final = f"{DOMAIN}/stopping-since-ms"
GOING_COST, STOPPING_COST, DRAINING_COST, USUAL_COST = "-1000000", "-1000", "-100", "0"  # the lowest goes first
_ENDING: Final = (Order.STOP, Order.NONE)
_STARTING: Final = frozenset({InstanceState.RESERVED, InstanceState.STARTING})


class PodView(msgspec.Struct, frozen=True, kw_only=True):
    """A pod (of several that make one instance: the leader), as far as it matters here."""

    name: str
    node: str | None = None
    instance: str | None = None
    labels: Mapping[str, str] = {}
    cost: str | None = None
    stopping_since_ms: int | None = None
    ready: bool = False  # apart from our own gate, which is about routing
    gated: bool = False  # it names our readiness gate
    gate: bool = False  # what that gate says now
    failed: bool = False  # its containers have ended and will not start again
    deleting: bool = False
    ordinal: int | None = None


class PodPatch(msgspec.Struct, frozen=True, kw_only=True):
    """Labels and annotations that a pod is to have, and what its readiness gate is to say (null: leave it)."""

    pod: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    gate: bool | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """An acknowledgement to send."""

    instance: str
    kind: ActuationKind
    detail: str | None = None


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """In this order: patches, then nodes, then deletions, then the scale; acknowledgements tell what is."""

    patches: list[PodPatch]
    nodes: frozenset[str]
    replicas: int
    delete: list[str]
    said: list[Said]
    missing: frozenset[str]  # instances that ought to have a pod and have none
    foreign: list[str]  # ready pods that belong to no instance
    held_back: int  # replicas that stay because the controller would end others first
    draining: bool  # whether somebody's work is waited for, which no pod will tell

    @property
    def settled(self) -> bool:
        """Whether nothing is under way."""
        return not (self.patches or self.delete or self.missing or self.held_back or self.said or self.draining)


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What the API server says of a target, and what is known besides: who has no work, who has been missing for long.

    An instance that is to stop keeps its pod until it is `idle`, at most for `drain_ms`.
    """

    service: str
    pods: Sequence[PodView]
    replicas: int
    now_ms: int = 0
    drain_ms: int = 0
    idle: Collection[str] = ()
    lost: Collection[str] = ()
    ordered: bool = False
    pin: bool = False


def plan(tasks: Sequence[Task], seen: Observed) -> Steps:
    """The steps from what is seen to what `tasks` ask for."""
    live = [pod for pod in sorted(seen.pods, key=lambda pod: pod.name) if not pod.deleting and not pod.failed]
    holders = {
        pod.instance: pod for pod in sorted(seen.pods, key=lambda pod: (pod.deleting, pod.failed, pod.name), reverse=True) if pod.instance
    }
    given = _give(tasks, live, holders, pin=seen.pin)
    holders |= given
    kept = [task for task in tasks if task.order not in _ENDING or _still_draining(task, holders, seen)]
    kept_pods = {holders[task.instance.id].name for task in kept if task.instance.id in holders}
    known = {task.instance.id for task in kept}
    mine = {pod.name for pod in given.values()}
    going = [pod for pod in live if pod.instance is not None and pod.instance not in known]
    foreign = [pod for pod in live if pod.instance is None and pod.name not in mine and pod.ready]
    bare = sum(holders.get(task.instance.id) not in live for task in kept)  # the controller may have replaced their pods already
    wanted = len(kept) + max(0, len(foreign) - bare)
    replicas = wanted
    if seen.ordered:
        stays = [pod.ordinal for pod in live if pod.ordinal is not None and (pod.name in kept_pods or pod in foreign)]
        replicas = max(wanted, 1 + max(stays, default=-1))
    return Steps(
        patches=_patches(tasks, holders, going, seen),
        nodes=frozenset(node for task in kept for node in task.instance.nodes),
        replicas=replicas,
        delete=[] if seen.ordered else _deletions(going, live, replicas, seen.replicas),
        said=_said(tasks, holders, seen),
        missing=frozenset(task.instance.id for task in kept if task.instance.id not in holders),
        foreign=sorted(pod.name for pod in foreign),
        held_back=replicas - wanted,
        draining=any(task.order is Order.STOP for task in kept),
    )


def _give(tasks: Sequence[Task], live: Sequence[PodView], holders: Mapping[str, PodView], *, pin: bool) -> dict[str, PodView]:
    """Pods without an instance, for instances without a pod: by name (adopted ones), by node, then, unless pinned, as they come."""
    needy = [task for task in tasks if task.order not in _ENDING and task.instance.id not in holders]
    free = {pod.name: pod for pod in sorted(live, key=lambda pod: (not pod.ready, pod.name)) if pod.instance is None}
    given: dict[str, PodView] = {}

    def fits(task: Task, pod: PodView, how: str) -> bool:
        if how == "name":
            return pod.name == task.instance.id
        if how == "node":
            return pod.node in task.instance.nodes
        return pod.node is not None and not pin

    for how in ("name", "node", "any"):
        for task in sorted(needy, key=lambda task: task.instance.id):
            if task.instance.id in given:
                continue
            found = next((pod for pod in free.values() if fits(task, pod, how)), None)
            if found is not None:
                given[task.instance.id] = free.pop(found.name)
    return given


def _still_draining(task: Task, holders: Mapping[str, PodView], seen: Observed) -> bool:
    """An instance that is to stop, has a pod, and may still have work."""
    pod = holders.get(task.instance.id)
    if task.order is not Order.STOP or pod is None or pod.failed or task.instance.id in seen.idle:
        return False
    return pod.stopping_since_ms is None or seen.now_ms - pod.stopping_since_ms < seen.drain_ms


def _patches(tasks: Sequence[Task], holders: Mapping[str, PodView], going: Sequence[PodView], seen: Observed) -> list[PodPatch]:
    """What pods lack of their labels and annotations."""
    leaving = {pod.name for pod in going}
    patches = []
    for task in sorted(tasks, key=lambda task: task.instance.id):
        pod = holders.get(task.instance.id)
        if pod is None or pod.deleting or pod.failed or task.order is Order.NONE:
            continue
        routable = task.order is Order.RUN
        labels = {INSTANCE: task.instance.id, SERVICE: seen.service, ROLE: task.instance.role, ROUTABLE: str(routable).lower()}
        since_ms = seen.now_ms if task.order is Order.STOP and pod.stopping_since_ms is None else None
        patches.append(_patch(pod, labels, GOING_COST if pod.name in leaving else _COSTS.get(task.order, USUAL_COST), since_ms))
    listed = {task.instance.id for task in tasks}
    patches += [_patch(pod, {ROUTABLE: "false"}, GOING_COST, None) for pod in going if pod.instance not in listed]
    return [patch for patch in patches if patch.labels or patch.annotations or patch.gate is not None]


_COSTS: Final[Mapping[Order, str]] = {Order.STOP: STOPPING_COST, Order.DRAIN: DRAINING_COST}


def _patch(pod: PodView, labels: Mapping[str, str], cost: str, since_ms: int | None) -> PodPatch:
    lacking = {key: value for key, value in labels.items() if pod.labels.get(key) != value}
    annotations = {COST: cost} if (pod.cost or USUAL_COST) != cost else {}
    if since_ms is not None:
        annotations[STOPPING_SINCE] = str(since_ms)
    routable = labels[ROUTABLE] == "true"
    return PodPatch(pod=pod.name, labels=lacking, annotations=annotations, gate=routable if pod.gated and pod.gate != routable else None)


def _deletions(going: Sequence[PodView], live: Sequence[PodView], wanted: int, replicas: int) -> list[str]:
    """Pods to delete by name, because their controller would not end them by itself, or would end another one in their place.

    It has no reason to end any while it has as many as it was told to have; and when it ends some, those not ready go first, whatever
    they cost: an instance that is starting would go in place of one that has served. Deleted pods no longer count when it looks.
    """
    gone = {pod.name for pod in going}
    if replicas == wanted:
        return sorted(gone) if len(live) <= wanted else []
    starting = any(not pod.ready for pod in live if pod.name not in gone)
    return sorted(pod.name for pod in going if pod.ready) if replicas > wanted and starting else []


def _said(tasks: Sequence[Task], holders: Mapping[str, PodView], seen: Observed) -> list[Said]:
    said = []
    for task in sorted(tasks, key=lambda task: task.instance.id):
        name, state, pod = task.instance.id, task.instance.state, holders.get(task.instance.id)
        if pod is None:
            if task.order is Order.STOP:
                said.append(Said(instance=name, kind=ActuationKind.STOPPED))
            elif name in seen.lost and state not in _STARTING and task.order is not Order.NONE:
                said.append(Said(instance=name, kind=ActuationKind.FAILED, detail="no pod carries it any more"))
        elif pod.failed and task.order is not Order.NONE:
            kind = ActuationKind.STOPPED if task.order is Order.STOP else ActuationKind.FAILED
            said.append(Said(instance=name, kind=kind, detail=f"pod {pod.name} has ended"))
        elif pod.deleting:
            continue
        elif state in _STARTING and task.order is Order.START:
            if state is InstanceState.RESERVED:
                said.append(Said(instance=name, kind=ActuationKind.STARTING, detail=f"pod {pod.name}"))
            if pod.ready:
                said.append(Said(instance=name, kind=ActuationKind.READY, detail=f"pod {pod.name} on {pod.node}"))
    return said
