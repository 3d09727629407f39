"""The actuator that starts nothing: it logs what it would do, one line a changed order, and can pretend to have done it."""

from __future__ import annotations

from heteroscale.actuation import orders
from heteroscale.actuation.orders import Order, Task
from heteroscale.actuation.settings import Answers
from heteroscale.actuation.subscriber import Acknowledger, Assignment
from heteroscale.contracts.commands import Command
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.runtime import logs


class DryRunActuator:
    """Carries out assignments in words."""

    def __init__(self, acknowledge: Acknowledger, answers: Answers) -> None:
        self._acknowledge = acknowledge
        self._answers = answers
        self._logger = logs.logger(actuator="dry-run")

    async def place(self, assignment: Assignment[Placement]) -> float | None:
        """Log each order that changed; acknowledge each that stands, if it is to pretend. Raises Retryable."""
        placement = assignment.value
        for task in orders.changed(assignment.previous, placement):
            self._logger.info(
                "would",
                order=task.order.value,
                service=placement.service,
                instance=task.instance.id,
                role=task.instance.role,
                gpu_type=task.instance.gpu_type,
                nodes=task.instance.nodes,
                group=task.group.id,
                at_ms=placement.at_ms,
            )
        if self._answers is Answers.PRETEND:
            for task in orders.tasks(placement):
                await self._pretend(placement, task)
        return None

    async def scale(self, assignment: Assignment[Command]) -> float | None:
        """Log targets when they change."""
        command, previous = assignment.value, assignment.previous
        if previous is None or previous.roles != command.roles:
            targets = {role: target.replicas for role, target in sorted(command.roles.items())}
            self._logger.info("would_scale", service=command.service, replicas=targets, revision=command.revision, at_ms=command.at_ms)
        return None

    async def close(self) -> None:
        """Nothing is held."""

    async def _pretend(self, placement: Placement, task: Task) -> None:
        name = task.instance.id
        if task.instance.state is InstanceState.RESERVED:
            await self._acknowledge.starting(placement, name)
        if task.order is Order.START:
            await self._acknowledge.ready(placement, name)
        if task.order is Order.STOP:
            await self._acknowledge.stopped(placement, name)
