"""The Kubernetes actuator in a whole cluster: the real scheduler puts pods where the reservation says, kwok's kubelets run them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from heteroscale.actuation import app, kubernetes_api
from heteroscale.actuation.settings import ActuatorKind, ActuatorSettings
from heteroscale.bus import catalogue
from heteroscale.bus.log import Log
from heteroscale.contracts.placements import InstanceState
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support import capabilities
from support.kube_loop import PREFIX, KubeLoop, deployment, grant, placed
from support.kube_servers import KubeServers, binaries, whole_cluster

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(180)]

NODES = tuple(f"n{number}" for number in range(8))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[KubeServers]:
    """Eight empty nodes, our rights, and a Deployment whose pods select reserved nodes."""
    for name, find in (("kube-apiserver", binaries), ("kube-scheduler", whole_cluster)):
        capability = capabilities.look(name, find)
        if not capability.available:
            capabilities.missing(capability)
    servers = KubeServers(tmp_path, whole=True)
    try:
        servers.start()
        grant(servers)
        for node in NODES:
            meta = {"name": node, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {"kubernetes.io/hostname": node}}
            servers.apply({"apiVersion": "v1", "kind": "Node", "metadata": meta})
        servers.apply(deployment("solo", "prefill", alone=True))
        yield servers
    finally:
        servers.stop()


async def test_pods_become_ready_on_the_nodes_that_were_reserved(
    cluster: KubeServers, memory_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five instances on five nodes of eight; one is replaced by another elsewhere; two go: who serves stays where it is."""
    (tmp_path / "targets.yaml").write_text("targets: [{service: solo, role: prefill, namespace: llm, name: solo-prefill, pin: true}]")
    token = cluster.token_of("kubernetes-actuator", "heteroscale")
    monkeypatch.setattr(kubernetes_api, "client", lambda: cluster.client(token))
    await catalogue.create(memory_log, PREFIX)
    context = Context(log=memory_log, prefix=PREFIX, health=Health())
    settings = ActuatorSettings(
        actuator_kind=ActuatorKind.KUBERNETES, actuator_targets=str(tmp_path / "targets.yaml"), actuator_drain_ms=500
    )
    serving = asyncio.create_task(app.serve(context, settings))
    loop = KubeLoop(memory_log, cluster, is_kubelet=False)

    where = {f"i{n}": NODES[n + 2] for n in range(5)}
    await loop.place(*(placed(name, InstanceState.RESERVED, node) for name, node in where.items()))
    await loop.until(*((name, "ready") for name in where))
    assert where == await _where(loop)

    stays = {name: placed(name, InstanceState.READY, where[name], routable=True) for name in ("i1", "i2", "i3", "i4")}
    await loop.place(*stays.values(), placed("i0", InstanceState.STOPPING, where["i0"]), placed("new", InstanceState.RESERVED, "n0"))
    await loop.until(("i0", "stopped"), ("new", "ready"))
    assert {name: where[name] for name in stays} | {"new": "n0"} == await _where(loop)

    going = [placed(name, InstanceState.STOPPING, where[name]) for name in ("i1", "i3")]
    left = [placed("new", InstanceState.READY, "n0", routable=True), stays["i2"], stays["i4"]]
    await loop.place(*left, *going)
    await loop.until(("i1", "stopped"), ("i3", "stopped"))
    assert {"new": "n0", "i2": where["i2"], "i4": where["i4"]} == await _where(loop)

    context.stop.set()
    await asyncio.wait_for(serving, 10)


async def _where(loop: KubeLoop) -> dict[str, str]:
    """Node by instance; an ended pod may still be on its way out."""
    return {name: pod["node"] for name, pod in (await loop.pods()).items() if name}
