"""Whatever pods a target has and whatever is asked of it: serving pods stay, nobody is two, and the order of a list means nothing."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from heteroscale.actuation import kubernetes_plan, orders
from heteroscale.actuation.kubernetes_plan import INSTANCE, ROUTABLE, Observed, PodView, Steps
from heteroscale.actuation.orders import Order, Task
from heteroscale.contracts.placements import InstanceState, PlacedInstance
from support import builders

NAMES = ("a", "b", "c", "d")
NODES = ("n1", "n2", "n3")
STAYING = {Order.START, Order.RUN, Order.HOLD, Order.DRAIN}


@st.composite
def pods(draw: st.DrawFn) -> list[PodView]:
    """Up to six, some of them somebody's, some on their way."""
    found = []
    for number in range(draw(st.integers(0, 6))):
        instance = draw(st.sampled_from((None, *NAMES, "forgotten")))
        labels = {} if instance is None else {INSTANCE: instance}
        found.append(
            PodView(
                name=f"pod-{number}",
                node=draw(st.sampled_from((None, *NODES))),
                instance=instance,
                labels=labels,
                stopping_since_ms=draw(st.sampled_from((None, 0, 900))),
                ready=draw(st.booleans()),
                gated=draw(st.booleans()),
                gate=draw(st.booleans()),
                failed=draw(st.booleans()),
                deleting=draw(st.booleans()),
                ordinal=number,
            )
        )
    return found


@st.composite
def tasks(draw: st.DrawFn) -> list[Task]:
    """An assignment of some of the names."""
    placed = [
        PlacedInstance(
            id=name,
            role="prefill",
            gpu_type="H20",
            nodes={draw(st.sampled_from(NODES)): 8},
            state=draw(st.sampled_from(list(InstanceState))),
            since_ms=0,
            routable=draw(st.booleans()),
        )
        for name in draw(st.sets(st.sampled_from(NAMES)))
    ]
    return list(orders.tasks(builders.placement("chat", *sorted(placed, key=lambda one: one.id))))


def planned(asked: list[Task], seen: list[PodView], replicas: int, *, ordered: bool, pin: bool) -> Steps:
    """The steps at a moment in the middle of the drains."""
    return kubernetes_plan.plan(
        asked, Observed(service="chat", pods=seen, replicas=replicas, now_ms=1_000, drain_ms=500, ordered=ordered, pin=pin)
    )


FLAGS = st.fixed_dictionaries({"ordered": st.booleans(), "pin": st.booleans()})


@given(tasks(), pods(), st.integers(0, 8), FLAGS, st.randoms(use_true_random=False))
def test_a_plan_keeps_what_serves(
    asked: list[Task], seen: list[PodView], replicas: int, flags: dict[str, bool], chance: random.Random
) -> None:
    """No pod of an instance that stays is deleted, nor one that nobody placed; there are replicas for who stays; a list has no order."""
    steps = planned(asked, seen, replicas, **flags)
    staying = {task.instance.id for task in asked if task.order in STAYING}
    holders = {pod.name: pod.instance for pod in seen}
    assert not {holders[name] for name in steps.delete} & staying
    assert None not in {holders[name] for name in steps.delete}
    assert steps.replicas >= len(staying)
    assert steps.nodes >= {node for task in asked if task.instance.id in staying for node in task.instance.nodes}
    shuffled = list(seen)
    chance.shuffle(shuffled)
    assert steps == planned(list(reversed(asked)), shuffled, replicas, **flags)


@given(tasks(), pods(), FLAGS)
def test_a_plan_makes_nobody_two(asked: list[Task], seen: list[PodView], flags: dict[str, bool]) -> None:
    """A pod that gets an instance had none, no instance gets two, and only who may be routed to is labelled so."""
    steps = planned(asked, seen, 3, **flags)
    views = {pod.name: pod for pod in seen}
    given_now = [patch.labels[INSTANCE] for patch in steps.patches if INSTANCE in patch.labels]
    assert max(Counter(given_now).values(), default=1) == 1
    assert all(views[patch.pod].instance is None for patch in steps.patches if INSTANCE in patch.labels)
    assert len({patch.pod for patch in steps.patches}) == len(steps.patches)
    running = {task.instance.id for task in asked if task.order is Order.RUN}
    for patch in steps.patches:
        whose = patch.labels.get(INSTANCE, views[patch.pod].instance)
        says = {patch.labels.get(ROUTABLE), {None: None, True: "true", False: "false"}[patch.gate]} - {None}
        assert says <= {"true" if whose in running else "false"}
