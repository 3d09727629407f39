"""The Kubernetes actuator: scale targets follow an assignment, pods carry instance ids, what became of them is reported.

One actuator a cluster. It looks, plans (kubernetes_plan), changes what differs, and looks again: when a watched pod changes, each second
while something is under way, and now and then otherwise, for what is not watched. It never fights: a target that another autoscaler
scales is left alone, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from heteroscale.actuation import kubernetes_api, kubernetes_plan, kubernetes_targets, orders
from heteroscale.actuation.desks import Bell
from heteroscale.actuation.drains import Drains
from heteroscale.actuation.kubernetes_api import ClusterApi
from heteroscale.actuation.kubernetes_plan import Observed, Said, Steps
from heteroscale.actuation.kubernetes_targets import ScaleTarget
from heteroscale.actuation.orders import Order, Task
from heteroscale.actuation.settings import ActuatorSettings
from heteroscale.actuation.subscriber import Acknowledger, Assignment
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.placements import Placement
from heteroscale.runtime import logs, metrics
from heteroscale.runtime.clock import SYSTEM, Clock
from heteroscale.runtime.context import Context
from heteroscale.runtime.metrics import Metrics

BUSY_S: Final = 1.0
SETTLED_S: Final = 15.0  # pods are watched; this is for scales and node labels that somebody else changed
RIVALS_S: Final = 30.0
LOST_AFTER_S: Final = 10.0  # an instance without a pod: longer than a controller needs to show one
SAY_AGAIN_S: Final = 15.0  # until placement has folded an acknowledgement
NODE_VALUE: Final = "reserved"


class KubernetesActuator:
    """Follows assignments on the targets of one cluster."""

    def __init__(
        self, api: ClusterApi, targets: Sequence[ScaleTarget], settings: ActuatorSettings, acknowledge: Acknowledger, drains: Drains
    ) -> None:
        self._api = api
        self._targets = targets
        self._settings = settings
        self._acknowledge = acknowledge
        self._drains = drains
        self.clock: Clock = SYSTEM
        self.registry = Metrics()
        self._rivals: dict[str, tuple[float, list[str]]] = {}
        self._missing: dict[str, float] = {}
        self._said: dict[Said, float] = {}
        self._told: dict[str, object] = {}
        self._logger = logs.logger(actuator="kubernetes")

    async def place(self, assignment: Assignment[Placement]) -> float | None:
        """One look at each target of a service, and the changes it needs. Raises Retryable once all have been tried."""
        placement = assignment.value
        settled, first = True, None
        for target in self._of(placement.service):
            try:
                settled = await self._converge(target, placement) and settled
            except Retryable as error:
                first = first or error
        self._tell_uncovered(placement)
        if first is not None:
            raise first
        return SETTLED_S if settled else BUSY_S

    async def scale(self, assignment: Assignment[Command]) -> float | None:
        """Counts alone, of a service without placement: what serves and what is on its way out. Raises Retryable."""
        command = assignment.value
        for target in self._of(command.service):
            wanted = command.roles.get(target.role)
            if wanted is None or await self._is_contested(target):
                continue
            found = await self._api.scale(target)
            self._tell(target, "target_vanished", holds=found is None)
            if found is not None and found.replicas != wanted.replicas + wanted.draining:
                await self._set_scale(target, found.replicas, wanted.replicas + wanted.draining, found.version)
        return SETTLED_S

    async def close(self) -> None:
        """Let go of connections and readers."""
        await self._drains.close()
        await self._api.close()

    async def _converge(self, target: ScaleTarget, placement: Placement) -> bool:
        """One look and the changes; whether there was nothing to do."""
        if await self._is_contested(target):
            return True
        tasks = [task for task in orders.tasks(placement) if self._is_for(target, task)]
        found = await self._api.scale(target)
        pods = [] if found is None else await self._api.pods(target, found.selector)
        self._tell(target, "target_vanished", holds=found is None)
        stopping = [task.instance.id for task in tasks if task.order is Order.STOP]
        seen = Observed(
            service=placement.service,
            pods=pods,
            replicas=0 if found is None else found.replicas,
            now_ms=self.clock.now_ms(),
            drain_ms=self._settings.actuator_drain_ms,
            idle=await self._drains.idle(placement.service, stopping),
            lost=self._lost(),
            ordered=target.ordered,
            pin=target.pin,
        )
        steps = kubernetes_plan.plan(tasks, seen)
        self._remember(tasks, steps)
        self._tell(target, "foreign_pods", holds=bool(steps.foreign), pods=steps.foreign)
        self._tell(target, "held_by_order", holds=steps.held_back > 0, replicas=steps.held_back)
        if found is not None:
            await self._change(target, steps, found.replicas, found.version)
        for said in steps.said:
            await self._say(placement, said)
        return steps.settled

    async def _change(self, target: ScaleTarget, steps: Steps, replicas: int, version: str) -> None:
        if not self._settings.actuator_apply:
            differs = steps.replicas != replicas or bool(steps.patches or steps.delete)
            pods = {"patch": [patch.pod for patch in steps.patches], "delete": steps.delete}
            self._tell(target, "would_change", holds=differs, before=replicas, replicas=steps.replicas, **pods)
            return
        for patch in steps.patches:
            await self._api.patch_pod(target, patch, self.clock.now_ms())
        if target.pin:
            labelled = await self._api.labelled_nodes(target.node_label)
            for node in sorted(steps.nodes - labelled):
                await self._api.label_node(node, target.node_label, NODE_VALUE)
            for node in sorted(labelled - steps.nodes):
                await self._api.label_node(node, target.node_label, None)
        for pod in steps.delete:
            self._logger.info("pod_deleted", target=str(target), pod=pod)
            await self._api.delete_pod(target, pod)
        if steps.replicas != replicas:
            await self._set_scale(target, replicas, steps.replicas, version)

    async def _set_scale(self, target: ScaleTarget, before: int, replicas: int, version: str) -> None:
        if not self._settings.actuator_apply:
            self._tell(target, "would_scale", before=before, replicas=replicas)
            return
        await self._api.set_scale(target, replicas, version)
        self.registry.add(metrics.SCALED, 1, direction="out" if replicas > before else "in")
        self._logger.info("scaled", target=str(target), before=before, replicas=replicas)

    async def _is_contested(self, target: ScaleTarget) -> bool:
        """Whether another autoscaler has this target; then nothing is changed on it."""
        now_s = self.clock.monotonic_s()
        looked_s, rivals = self._rivals.get(str(target), (float("-inf"), []))
        if now_s - looked_s >= RIVALS_S:
            rivals = await self._api.rivals(target)
            self._rivals[str(target)] = (now_s, rivals)
        self._tell(target, "contested", holds=bool(rivals), rivals=rivals, cure="delete or pause it: two autoscalers on one target fight")
        return bool(rivals)

    def _of(self, service: str) -> list[ScaleTarget]:
        return [target for target in self._targets if target.service == service]

    def _is_for(self, target: ScaleTarget, task: Task) -> bool:
        instance = task.instance
        return (
            self._is_here(task) and (instance.role, instance.part) == (target.role, target.part) and target.group in (None, task.group.id)
        )

    def _is_here(self, task: Task) -> bool:
        return self._settings.actuator_cluster in (None, task.group.domain.cluster)

    def _lost(self) -> frozenset[str]:
        now_s = self.clock.monotonic_s()
        return frozenset(name for name, since_s in self._missing.items() if now_s - since_s >= LOST_AFTER_S)

    def _remember(self, tasks: Sequence[Task], steps: Steps) -> None:
        """Since when instances have been without a pod; what is forgotten is found again at the next look."""
        now_s = self.clock.monotonic_s()
        for task in tasks:
            if task.instance.id in steps.missing:
                self._missing.setdefault(task.instance.id, now_s)
            else:
                self._missing.pop(task.instance.id, None)
        self._said = {said: at_s for said, at_s in self._said.items() if now_s - at_s < SAY_AGAIN_S}

    async def _say(self, placement: Placement, said: Said) -> None:
        """Acknowledge, unless that was just done."""
        if said in self._said or not self._settings.actuator_apply:
            return
        await self._acknowledge.send(placement, said.instance, said.kind, said.detail)
        self._said[said] = self.clock.monotonic_s()

    def _tell(self, target: ScaleTarget, event: str, *, holds: bool = True, **fields: object) -> None:
        """One line when something about a target becomes so, none while it stays so."""
        key = f"{target}:{event}"
        if not holds:
            self._told.pop(key, None)
        elif self._told.get(key) != fields:
            self._told[key] = fields
            self._logger.warning(event, target=str(target), **fields)

    def _tell_uncovered(self, placement: Placement) -> None:
        """Instances of this cluster that no target is for: nobody carries them out here."""
        targets = self._of(placement.service)
        ours = [task for task in orders.tasks(placement) if self._is_here(task)]
        left = sorted(task.instance.id for task in ours if not any(self._is_for(target, task) for target in targets))
        if left and self._told.get(placement.service) != left:
            self._logger.warning("no_target", service=placement.service, instances=left)
        self._told[placement.service] = left


def build(context: Context, settings: ActuatorSettings, acknowledge: Acknowledger, bell: Bell) -> KubernetesActuator:
    """From settings. Raises Rejected for a targets file or a cluster configuration that cannot be used."""
    if settings.actuator_targets is None:
        raise Rejected("settings", "the kubernetes actuator needs HETEROSCALE_ACTUATOR_TARGETS=/path/to/targets.yaml", "actuator")
    targets = kubernetes_targets.load(settings.actuator_targets)
    api = ClusterApi(kubernetes_api.client(), bell.ring)
    actuator = KubernetesActuator(api, targets, settings, acknowledge, Drains(context.log, context.prefix))
    actuator.registry = context.metrics
    return actuator
