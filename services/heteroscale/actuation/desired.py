"""What an assignment asks for, as one self-contained document: what the file actuator writes and the webhook sends. Pure."""

from __future__ import annotations

from collections import Counter

import msgspec

from heteroscale.actuation import orders
from heteroscale.actuation.orders import Order
from heteroscale.contracts.commands import Command
from heteroscale.contracts.placements import Placement


class DesiredInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One instance: where it belongs and what it is to be doing."""

    id: str
    role: str
    part: str | None
    replica: int | None
    gpu_type: str
    nodes: dict[str, int]
    group: str
    cluster: str | None
    order: Order
    routable: bool


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """A level: carrying it out twice is the same as once. `version` orders the documents of a service and names this one.

    `replicas`: processes that there are to be, per role; an instance that is to stop is among `instances` and not counted.
    `instances` is null where nothing was placed (`placement: none`): only counts are asked for.
    """

    service: str
    fleet: str
    version: str
    revision: int
    at_ms: int
    replicas: dict[str, int]
    instances: list[DesiredInstance] | None


def of_placement(placement: Placement) -> Desired:
    """By (`gen`, `seq`)."""
    instances = [
        DesiredInstance(
            id=task.instance.id,
            role=task.instance.role,
            part=task.instance.part,
            replica=task.instance.replica,
            gpu_type=task.instance.gpu_type,
            nodes=task.instance.nodes,
            group=task.group.id,
            cluster=task.group.domain.cluster,
            order=task.order,
            routable=task.instance.routable,
        )
        for task in sorted(orders.tasks(placement), key=lambda task: task.instance.id)
        if task.order is not Order.NONE
    ]
    counts = Counter(one.role for one in instances if one.order is not Order.STOP)
    return Desired(
        service=placement.service,
        fleet=placement.fleet,
        version=f"{placement.gen}.{placement.seq}",
        revision=placement.revision,
        at_ms=placement.at_ms,
        replicas=dict(sorted(counts.items())),
        instances=instances,
    )


def of_command(command: Command) -> Desired:
    """By revision; what is on its way out still runs, so it is counted. An affirmation makes the same version."""
    return Desired(
        service=command.service,
        fleet=command.fleet,
        version=f"r{command.revision}",
        revision=command.revision,
        at_ms=command.at_ms,
        replicas={role: target.replicas + target.draining for role, target in sorted(command.roles.items())},
        instances=None,
    )


def of(value: Placement | Command) -> Desired:
    """Of either."""
    return of_placement(value) if isinstance(value, Placement) else of_command(value)
