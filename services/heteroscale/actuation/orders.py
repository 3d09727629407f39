"""What an assignment asks of an actuator, instance by instance. Pure: a level, so doing it again changes nothing."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import assert_never

import msgspec

from heteroscale.contracts.commands import Command
from heteroscale.contracts.names import InstanceName
from heteroscale.contracts.placements import Group, InstanceState, PlacedInstance, Placement


class Order(enum.StrEnum):
    """What an instance is to be doing."""

    START = "start"  # its GPUs are reserved and nothing runs there yet
    RUN = "run"  # go on, taking work
    HOLD = "hold"  # go on, but take no new work: not routable for now
    DRAIN = "drain"  # take no new work, finish what there is
    STOP = "stop"  # end now
    NONE = "none"  # nothing runs and nothing is to


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One instance, where it belongs, and its order."""

    group: Group
    instance: PlacedInstance
    order: Order


def order_of(instance: PlacedInstance) -> Order:
    """The order of an instance by its state and the discovery verdict."""
    match instance.state:
        case InstanceState.RESERVED | InstanceState.STARTING:
            return Order.START
        case InstanceState.READY:
            return Order.RUN if instance.routable else Order.HOLD
        case InstanceState.DRAINING:
            return Order.DRAIN
        case InstanceState.STOPPING:
            return Order.STOP
        case InstanceState.FAILED:
            return Order.NONE
        case _:
            assert_never(instance.state)


def tasks(placement: Placement) -> Iterator[Task]:
    """All instances of an assignment, in its order."""
    for group in placement.groups:
        for instance in group.instances:
            yield Task(group=group, instance=instance, order=order_of(instance))


def changed(before: Placement | None, after: Placement) -> list[Task]:
    """Tasks whose order differs from before; instances that are gone appear with NONE and the group they were in."""
    old = {} if before is None else {task.instance.id: task for task in tasks(before)}
    new = {task.instance.id: task for task in tasks(after)}
    differing = [task for name, task in new.items() if name not in old or old[name].order is not task.order]
    gone: dict[InstanceName, Task] = {name: task for name, task in old.items() if name not in new}
    left = [Task(group=task.group, instance=task.instance, order=Order.NONE) for task in gone.values() if task.order is not Order.NONE]
    return sorted([*differing, *left], key=lambda task: task.instance.id)


def is_newer_placement(candidate: Placement, than: Placement | None) -> bool:
    """Whether (`gen`, `seq`) moved on. A dry-run answer never is: it assigns nothing."""
    if candidate.dry_run or candidate.seq is None:
        return False
    return than is None or than.seq is None or (candidate.gen, candidate.seq) > (than.gen, than.seq)


def is_newer_command(candidate: Command, than: Command | None) -> bool:
    """Whether (`revision`, `at_ms`) moved on; an affirmation does by its time. A dry run never is."""
    if candidate.dry_run:
        return False
    return than is None or (candidate.revision, candidate.at_ms) > (than.revision, than.at_ms)
