"""The Kubernetes actuator against an API over loopback: pods become instances, whatever comes between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from heteroscale.actuation import kubernetes as kubernetes_module
from heteroscale.actuation import kubernetes_plan, kubernetes_targets
from heteroscale.actuation.desks import Delayed
from heteroscale.actuation.drains import Drains
from heteroscale.actuation.kubernetes import KubernetesActuator
from heteroscale.actuation.kubernetes_api import ClusterApi
from heteroscale.actuation.kubernetes_targets import ScaleTarget
from heteroscale.actuation.settings import ActuatorSettings
from heteroscale.actuation.subscriber import Acknowledger, Assignment
from heteroscale.bus import catalogue
from heteroscale.bus.log import Log
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.placements import InstanceState, PlacedInstance, Placement
from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples
from heteroscale.contracts.topics import Topic
from heteroscale.runtime.clock import ManualClock
from support import builders
from support.fake_cluster import FakeCluster

AtEnd = list[Callable[[], Awaitable[None]]]
TARGET = ScaleTarget(service="chat", role="prefill", name="chat-prefill", namespace="llm")
PINNED = ScaleTarget(service="chat", role="prefill", name="chat-prefill", namespace="llm", pin=True)
PREFIX = "memory"
R, S, READY, DRAINING, STOPPING = (
    InstanceState.RESERVED,
    InstanceState.STARTING,
    InstanceState.READY,
    InstanceState.DRAINING,
    InstanceState.STOPPING,
)


class Heard(Acknowledger):
    """Acknowledgements, as they come."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    async def send(self, assignment: Placement | Command, instance: str, kind: ActuationKind, detail: str | None = None) -> None:
        """Remember it."""
        del assignment, detail
        self.all.append((instance, kind.value))

    def take(self) -> list[tuple[str, str]]:
        """Those since the last call."""
        taken, self.all = self.all, []
        return taken


class Stage:
    """An actuator, its cluster and its clock."""

    def __init__(self, cluster: FakeCluster, log: Log, target: ScaleTarget, **settings: object) -> None:
        self.cluster = cluster
        self.heard = Heard()
        self.clock = ManualClock(1_000_000)
        given: dict[str, object] = {"actuator_drain_ms": 60_000} | settings
        self.actuator = KubernetesActuator(
            ClusterApi(cluster.client()),
            [target],
            ActuatorSettings(**given),  # type: ignore[arg-type]
            self.heard,
            Drains(log, PREFIX),
        )
        self.actuator.clock = self.clock
        self._seq = 0

    async def caught_up(self) -> None:
        """Wait until the actuator's watch has seen all that is."""
        version = self.cluster.publish()
        async with asyncio.timeout(5):
            while any(int(watch.version or 0) < version for _, watch in self.actuator._api._watches.values()):
                await asyncio.sleep(0.002)

    async def look(self, *instances: PlacedInstance) -> float | None:
        """One look at an assignment, then the controllers' turn."""
        self._seq += 1
        await self.caught_up()
        due = await self.actuator.place(Assignment(builders.placement("chat", *instances, seq=self._seq), None))
        self.cluster.tick()
        self.clock.advance(1_000)
        return due

    @property
    def replicas(self) -> int:
        """Of the target."""
        found: int = self.cluster.targets["chat-prefill"]["replicas"]
        return found


@pytest.fixture
def stage(memory_log: Log, at_end: AtEnd) -> Callable[..., Awaitable[Stage]]:
    """Stages, each with a cluster of its own."""

    async def build(target: ScaleTarget = TARGET, **settings: object) -> Stage:
        await catalogue.create(memory_log, PREFIX, topics=[Topic.TELEMETRY])
        cluster = await FakeCluster().__aenter__()
        cluster.add_target("chat-prefill", plural=target.resource[2])
        one = Stage(cluster, memory_log, target, **settings)

        async def end() -> None:
            await one.actuator.close()
            await cluster.__aexit__()

        at_end.append(end)
        return one

    return build


Build = Callable[..., Awaitable[Stage]]


def placed(name: str, state: InstanceState, node: str = "n1", *, routable: bool = False) -> PlacedInstance:
    """An instance on one node."""
    return PlacedInstance(id=name, role="prefill", gpu_type="H20", nodes={node: 8}, state=state, since_ms=0, routable=routable)


async def test_reserved_instances_get_pods_and_their_readiness_is_reported(stage: Build) -> None:
    """Scale, a pod for each with its id as a label, starting, ready; then routing by label; then nothing more to do."""
    one = await stage()
    await one.look(placed("a", R), placed("b", R))
    assert 2 == one.replicas
    await one.look(placed("a", R), placed("b", R))
    assert [("a", "starting"), ("a", "ready"), ("b", "starting"), ("b", "ready")] == sorted(
        one.heard.take(), key=lambda said: (said[0], said[1] != "starting")
    )
    assert {"a", "b"} == set(one.cluster.instances())
    await one.look(placed("a", READY, routable=True), placed("b", READY))
    routable = {name: one.cluster.pods[pod]["labels"]["heteroscale.io/routable"] for name, pod in one.cluster.instances().items()}
    assert {"a": "true", "b": "false"} == routable
    before = len(one.cluster.calls)
    due = await one.look(placed("a", READY, routable=True), placed("b", READY))
    assert kubernetes_module.SETTLED_S == due
    assert {"GET"} == {method for method, _ in one.cluster.calls[before:]}
    assert [] == one.heard.take()


async def test_a_stopping_instance_keeps_its_pod_until_its_work_is_done(stage: Build, memory_log: Log) -> None:
    """Out of routing at once; down when telemetry says idle; stopped once the pod has gone; the other pod stays."""
    one = await stage()
    for state in (R, R, READY):
        await one.look(placed("a", state, routable=True), placed("b", state, routable=True))
    one.heard.take()
    survivor = one.cluster.instances()["b"]
    for running in (3, 3, 0):
        await one.look(placed("a", STOPPING), placed("b", READY, routable=True))
        if running:
            assert 2 == one.replicas
        sample = InstanceSample(instance="a", role="prefill", state=EngineState.SERVING, at_ms=builders.AT_MS, running=running)
        await memory_log.append([builders.entry(PREFIX, Topic.TELEMETRY, "chat", Samples(service="chat", samples=[sample]))])
    assert "false" == one.cluster.pods[one.cluster.instances()["a"]]["labels"]["heteroscale.io/routable"]
    await one.look(placed("a", STOPPING), placed("b", READY, routable=True))
    assert 1 == one.replicas
    assert {"b": survivor} == one.cluster.instances()
    await one.look(placed("a", STOPPING), placed("b", READY, routable=True))
    assert [("a", "stopped")] == one.heard.take()


async def test_a_drain_ends_at_its_deadline_also_across_a_restart(stage: Build) -> None:
    """An engine that says nothing is given the deadline from when it was first told to stop, which its pod remembers."""
    one = await stage()
    for state in (R, R, READY):
        await one.look(placed("a", state))
    await one.look(placed("a", STOPPING))
    one.clock.advance(30_000)
    reborn = KubernetesActuator(
        ClusterApi(one.cluster.client()), [TARGET], ActuatorSettings(actuator_drain_ms=60_000), one.heard, one.actuator._drains
    )
    reborn.clock = one.clock
    await one.actuator.close()
    one.actuator = reborn
    await one.look(placed("a", STOPPING))
    assert 1 == one.replicas
    one.clock.advance(30_000)
    await one.look(placed("a", STOPPING))
    assert 0 == one.replicas


async def test_repeated_and_restarted_looks_converge_to_the_same(stage: Build) -> None:
    """ONCE: the same assignment many times, by two actuators, yields as many pods as it states and no more."""
    one = await stage()
    other = KubernetesActuator(ClusterApi(one.cluster.client()), [TARGET], ActuatorSettings(), Heard(), one.actuator._drains)
    wanted = builders.placement("chat", placed("a", R), placed("b", S), placed("c", R))
    for _ in range(4):
        for actuator in (one.actuator, other):
            try:
                await actuator.place(Assignment(wanted, None))
            except Delayed:
                continue
            one.cluster.tick()
    assert 3 == one.replicas
    assert {"a", "b", "c"} == set(one.cluster.instances())
    assert 3 == len(one.cluster.pods)
    await other._api.close()


async def test_pods_go_to_the_instances_of_their_node(stage: Build) -> None:
    """Reserved nodes are labelled for the pod template's selector, others are not any more, and pods are matched by node."""
    one = await stage(PINNED)
    label = PINNED.node_label
    one.cluster.nodes = {"n1": {}, "n2": {}, "n3": {label: "reserved"}}
    nodes = iter(["n2", "n1"])
    one.cluster.place = lambda _pod: next(nodes)
    await one.look(placed("a", R, "n1"), placed("b", R, "n2"))
    assert {"n1": {label: "reserved"}, "n2": {label: "reserved"}, "n3": {}} == one.cluster.nodes
    await one.look(placed("a", R, "n1"), placed("b", R, "n2"))
    on = {name: one.cluster.pods[pod]["node"] for name, pod in one.cluster.instances().items()}
    assert {"a": "n1", "b": "n2"} == on


@pytest.mark.parametrize(
    ("method", "part", "status", "headers", "after_s"),
    [
        ("PATCH", "/scale", 409, {}, 0.1),
        ("PATCH", "/scale", 403, {}, 30.0),
        ("GET", "/scale", 429, {"Retry-After": "7"}, 7.0),
        ("GET", "/pods", 429, {}, 2.0),
        ("GET", "/horizontalpodautoscalers", 401, {}, 30.0),
        ("PATCH", "/scale", 422, {}, 30.0),
    ],
)
async def test_what_the_api_server_refuses_is_tried_again_when_it_makes_sense(
    stage: Build, method: str, part: str, status: int, headers: dict[str, str], after_s: float
) -> None:
    """Nothing is half done for good: after the pause the next look carries the same assignment out."""
    one = await stage()
    one.cluster.fail = [(method, part, status, headers)]
    with pytest.raises(Delayed) as caught:
        await one.look(placed("a", R))
    assert after_s == caught.value.after_s
    if status == 403:
        assert "grant: patch deployments/scale" in str(caught.value)
    await one.look(placed("a", R))
    assert 1 == one.replicas


async def test_an_api_server_that_breaks_is_retryable(stage: Build) -> None:
    """A 500, and a 404 for a pod that went meanwhile, which is no error at all."""
    one = await stage()
    one.cluster.fail = [("GET", "/scale", 500, {})]
    with pytest.raises(Retryable):
        await one.look(placed("a", R))
    await one.look(placed("a", R))
    one.cluster.fail = [("PATCH", "/pods/", 404, {})]
    await one.look(placed("a", R))
    await one.look(placed("a", R))
    assert {"a"} == set(one.cluster.instances())


async def test_a_vanished_target_leaves_no_instance_believed_alive(stage: Build) -> None:
    """Its pods are gone with it: what was to stop is stopped, what served has failed after a while; nothing is scaled."""
    one = await stage()
    for state in (R, R, READY):
        await one.look(placed("a", state), placed("b", state))
    one.heard.take()
    del one.cluster.targets["chat-prefill"]
    one.cluster.pods.clear()
    await one.look(placed("a", STOPPING), placed("b", READY))
    assert [("a", "stopped")] == one.heard.take()
    one.clock.advance(60_000)
    await one.look(placed("b", READY))
    assert [("b", "failed")] == one.heard.take()


@pytest.mark.parametrize(
    ("plural", "document", "contested"),
    [
        ("horizontalpodautoscalers", {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "chat-prefill"}, "maxReplicas": 3}}, True),
        ("horizontalpodautoscalers", {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "another"}, "maxReplicas": 3}}, False),
        ("scaledobjects", {"spec": {"scaleTargetRef": {"name": "chat-prefill"}}}, True),
        ("scaledobjects", {"spec": {"scaleTargetRef": {"name": "chat-prefill"}}, "paused": "true"}, False),
    ],
)
async def test_it_refuses_to_fight_another_autoscaler(stage: Build, plural: str, document: dict[str, object], *, contested: bool) -> None:
    """A HorizontalPodAutoscaler or an unpaused ScaledObject on the same target: nothing is changed, until it is gone."""
    one = await stage()
    annotations = {"autoscaling.keda.sh/paused": "true"} if document.get("paused") else {}
    one.cluster.rivals[plural] = [{"metadata": {"name": "rival", "annotations": annotations}} | document]
    await one.look(placed("a", R))
    assert (0 if contested else 1) == one.replicas
    one.cluster.rivals[plural] = []
    one.clock.advance(60_000)
    await one.look(placed("a", R))
    assert 1 == one.replicas


async def test_pods_that_nobody_placed_are_left_alone(stage: Build) -> None:
    """FAIL-STATIC: serving pods that belong to no instance are counted in, and named; pods of forgotten instances go."""
    one = await stage()
    one.cluster.targets["chat-prefill"]["replicas"] = 3
    for n in range(3):
        one.cluster.add_pod("chat-prefill", f"old-{n}")
    await one.look(placed("a", READY))
    assert 3 == one.replicas
    assert 1 == len(one.cluster.instances())
    one.cluster.pods["old-2"]["labels"]["heteroscale.io/instance"] = "forgotten"
    await one.look(placed("a", READY))
    assert 2 == one.replicas
    assert "old-2" not in one.cluster.pods


async def test_adopted_instances_are_found_by_the_name_of_their_pod(stage: Build) -> None:
    """An adoption names pods; each keeps its own."""
    one = await stage()
    one.cluster.targets["chat-prefill"]["replicas"] = 2
    for name in ("x", "y"):
        one.cluster.add_pod("chat-prefill", name)
    await one.look(placed("y", READY), placed("x", READY))
    assert {"x": "x", "y": "y"} == one.cluster.instances()


async def test_a_pod_that_ends_by_itself_has_failed(stage: Build) -> None:
    """The instance is reported; the pod that the controller starts instead is not counted twice."""
    one = await stage()
    for state in (R, R, READY):
        await one.look(placed("a", state))
    one.heard.take()
    one.cluster.pods[one.cluster.instances()["a"]]["phase"] = "Failed"
    one.cluster.tick()
    await one.look(placed("a", READY))
    assert [("a", "failed")] == one.heard.take()
    assert 1 == one.replicas
    await one.look(placed("r", R))
    assert "r" in one.cluster.instances()
    assert 1 == one.replicas


async def test_a_replacement_takes_the_place_of_a_drained_pod(stage: Build) -> None:
    """As many as before, but another: the drained pod is deleted, since its controller has no reason to."""
    one = await stage(actuator_drain_ms=0)
    for state in (R, R, READY):
        await one.look(placed("a", state))
    old = one.cluster.instances()["a"]
    for _ in range(4):
        await one.look(placed("a", STOPPING), placed("b", R))
    assert old not in one.cluster.pods
    assert 1 == one.replicas
    assert ("a", "stopped") in one.heard.all


async def test_an_instance_that_starts_outlives_one_that_has_drained(stage: Build) -> None:
    """Controllers end pods that are not ready first: the drained one goes by name, before the target is scaled in."""
    one = await stage(actuator_drain_ms=0)
    for state in (R, R, READY):
        await one.look(placed("a", state), placed("c", state))
    one.cluster.becomes_ready = False
    for _ in range(3):
        await one.look(placed("a", READY), placed("c", READY), placed("b", R))
    starting = one.cluster.instances()["b"]
    for _ in range(3):
        await one.look(placed("a", STOPPING), placed("c", READY), placed("b", S))
    assert 2 == one.replicas
    assert starting == one.cluster.instances().get("b")
    assert {"b", "c"} == set(one.cluster.instances())


async def test_a_readiness_gate_follows_routability(stage: Build) -> None:
    """Ready as an engine before it is routed to, so that placement can route to it; then the pod's own readiness follows the verdict."""
    one = await stage()
    one.cluster.gated = True
    gates = []
    for state, routable in ((R, False), (R, False), (READY, True), (READY, True), (READY, False), (STOPPING, False)):
        await one.look(placed("a", state, routable=routable))
        gates.append(one.cluster.pods[one.cluster.instances()["a"]]["gate"] if "a" in one.cluster.instances() else "")
    assert [("a", "starting"), ("a", "ready")] == one.heard.take()
    assert ["", None, "True", "True", "False", "False"] == gates
    written = [path for method, path in one.cluster.calls if method == "PATCH" and path.endswith("/status")]
    assert 2 == len(written), "only when it changes"


async def test_a_target_that_is_made_anew_may_select_other_pods(stage: Build) -> None:
    """The watch follows its selector: pods of before are seen no more."""
    one = await stage()
    api = one.actuator._api
    for app in ("chat-prefill", "renamed"):
        one.cluster.add_pod(app, f"{app}-1")
    assert ["chat-prefill-1"] == [pod.name for pod in await api.pods(TARGET, {"app": "chat-prefill"})]
    assert ["renamed-1"] == [pod.name for pod in await api.pods(TARGET, {"app": "renamed"})]
    assert 1 == len(api._watches)


async def test_a_pod_that_changes_has_its_service_looked_at(stage: Build) -> None:
    """The desk is told; nobody has to ask."""
    rung: list[str] = []
    one = await stage()
    one.actuator._api._changed = rung.append
    await one.look(placed("a", R))
    await one.look(placed("a", R))
    rung.clear()
    one.cluster.pods[one.cluster.instances()["a"]]["ready"] = False
    await one.caught_up()
    assert "chat" in rung


async def test_an_ordered_target_never_loses_a_replica_that_serves(stage: Build) -> None:
    """A StatefulSet ends its highest replica first: one that is to go below a serving one waits."""
    target = ScaleTarget(service="chat", role="prefill", name="chat-prefill", namespace="llm", kind="StatefulSet")
    one = await stage(target, actuator_drain_ms=0)
    one.cluster.targets["chat-prefill"]["replicas"] = 2
    for n, name in enumerate(("a", "b")):
        one.cluster.add_pod("chat-prefill", f"chat-prefill-{n}", labels={"heteroscale.io/instance": name})
    for _ in range(3):
        await one.look(placed("a", STOPPING), placed("b", READY))
    assert 2 == one.replicas
    for _ in range(3):
        await one.look(placed("a", READY), placed("b", STOPPING))
    assert 1 == one.replicas
    assert {"a"} == set(one.cluster.instances())


async def test_a_dry_run_changes_nothing_and_says_nothing_back(stage: Build) -> None:
    """Only reads. It says once what it would do, and nothing where there is nothing to do."""
    one = await stage(actuator_apply=False)
    with structlog.testing.capture_logs() as lines:
        await one.look()
        assert [] == lines
        for _ in range(2):
            await one.look(placed("a", R))
        one.cluster.add_pod("chat-prefill", "x")
        await one.look(placed("a", R))
    assert {method for method, _ in one.cluster.calls} <= {"GET", "WATCH"}
    assert [] == one.heard.all
    told = [(line["event"], line["before"], line["replicas"], line["patch"], line["delete"]) for line in lines]
    assert [("would_change", 0, 1, [], []), ("would_change", 0, 1, ["x"], [])] == told


async def test_other_clusters_and_other_services_are_none_of_its_business(stage: Build) -> None:
    """Groups elsewhere are not counted here."""
    one = await stage(actuator_cluster="c2")
    await one.look(placed("a", R))
    assert 0 == one.replicas
    await one.actuator.place(Assignment(builders.placement("other", placed("a", R)), None))
    assert 0 == one.replicas


async def test_commands_scale_counts_alone(stage: Build) -> None:
    """A service without placement: what serves and what drains; once right, nothing more is written."""
    one = await stage()
    command = builders.command(prefill=2)
    for _ in range(2):
        await one.actuator.scale(Assignment(command, None))
    assert 2 == one.replicas
    assert 1 == sum(method == "PATCH" for method, _ in one.cluster.calls)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("targets: [{service: s, role: r, name: n, kind: Robot}]", "kind"),
        ("targets: [{service: s, role: r, name: n}, {service: s, role: r, name: m}]", "twice"),
        ("targets: [{service: s, role: r, name: n}, {service: s, role: q, name: n}]", "twice"),
        (f"targets: [{{service: {'s' * 70}, role: r, name: n, pin: true}}]", "label"),
        ("targets: [{service: s, role: r, nam: n}]", "invalid"),
        ("targets: {", "unreadable"),
    ],
)
def test_a_targets_file_is_checked_when_it_is_read(tmp_path: Path, text: str, code: str) -> None:
    """With the file's name in front."""
    path = tmp_path / "targets.yaml"
    path.write_text(text)
    with pytest.raises(Rejected) as caught:
        kubernetes_targets.load(str(path))
    assert code == caught.value.code
    assert str(path) in str(caught.value)


def test_a_custom_resource_is_scaled_by_its_own_api() -> None:
    """Group, version and plural as given."""
    target = ScaleTarget(service="s", role="r", name="n", kind="Engine", api="example.com/v1", plural="engines")
    assert ("example.com", "v1", "engines") == target.resource
    assert "heteroscale.io/instance" == kubernetes_plan.INSTANCE
