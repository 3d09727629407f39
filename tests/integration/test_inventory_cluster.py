"""A real Redis Cluster of three nodes on loopback: a fleet's keys share a slot, fleets spread, and all scripts run where they belong."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.crc import key_slot

from heteroscale.bus.log import Log
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.placements import PlacementStatus
from heteroscale.placement import check
from heteroscale.placement.inventory.gang import Verdict
from heteroscale.placement.inventory.redis import RedisInventory, connect
from heteroscale.placement.inventory.scripts import Keys
from heteroscale.servers import process
from support.gangs import Proposer, built, node
from support.own_redis import OwnRedis
from support.placement_driver import command
from support.placement_stage import Stage
from support.processes import free_port

pytestmark = pytest.mark.redis

AtEnd = list[Callable[[], Awaitable[None]]]
MASTERS = 3
LATE = 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of one of three masters that share all slots."""
    if not OwnRedis.possible():
        pytest.skip("capability redis-server: none on PATH")
    with ExitStack() as stack:
        servers = []
        for number in range(MASTERS):
            folder: Path = tmp_path_factory.mktemp(f"master{number}")
            options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000")
            servers.append(stack.enter_context(OwnRedis(folder, *options)))
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        made = subprocess.run(
            ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert 0 == made.returncode, made.stdout + made.stderr
        assert process.wait_until(lambda: all(_agrees(server.port) for server in servers), deadline_s=30)
        yield servers[0].url


def _agrees(port: int) -> bool:
    """Whether this node sees all slots served; each learns it in its own time."""
    told = subprocess.run(["redis-cli", "-p", str(port), "cluster", "info"], capture_output=True, text=True, timeout=10, check=False)
    return "cluster_state:ok" in told.stdout


def opened(url: str, at_end: AtEnd) -> RedisInventory:
    """An inventory on the cluster."""
    inventory = RedisInventory(connect(url, timeout_ms=5_000, cluster=True), timeout_ms=5_000)
    at_end.append(inventory.close)
    return inventory


def test_a_fleet_is_one_slot() -> None:
    """One hash tag a fleet, also under a prefix of its own; names with odd characters included."""
    for keys in (Keys.of("eu-west"), Keys.of("eu-west", "demo-7"), Keys.of("a b/c")):
        assert 1 == len({key_slot(key.encode()) for key in keys})
    assert Keys.of("x") != Keys.of("x", "other")


async def test_gangs_of_many_fleets_on_a_cluster(cluster: str, at_end: AtEnd) -> None:
    """Fleets on all masters: built, synced, reserved, refused and read like on one server, each fleet's gangs in their order."""
    inventory = opened(cluster, at_end)
    fleets = [f"region-{number}" for number in range(8)]
    assert MASTERS == len({key_slot(Keys.of(fleet).meta.encode()) * MASTERS // 16_384 for fleet in fleets})
    gangs = []
    for fleet in fleets:
        proposer = Proposer(fleet, await built(inventory, node("n1", fleet=fleet), fleet=fleet))
        late = [Proposer(fleet, proposer.fence, service=f"late{number}") for number in range(LATE)]
        gangs += [proposer.gang({"i1": {"n1": 8}}), *(one.gang({one.service: {"n1": 8}}) for one in late)]
    outcomes = await inventory.apply(gangs)
    assert [Verdict.APPLIED, *[Verdict.CONFLICT] * LATE] * len(fleets) == [outcome.verdict for outcome in outcomes]
    for fleet in fleets:
        image = await inventory.read(fleet)
        assert image is not None
        assert ([], 0, 1) == (check.inventory(image), image.nodes["n1"].free, len(await inventory.outbox(fleet)))


async def test_the_service_runs_on_a_cluster(cluster: str, memory_log: Log, at_end: AtEnd) -> None:
    """From command to convergence, and the books are right."""
    inventory = opened(cluster, at_end)
    stage = Stage(memory_log, "heteroscale")
    at_end.append(stage.close)
    names = [f"n{at}" for at in range(4)]
    await stage.build(*(node(name) for name in names))
    stage.start(inventory)
    placed = await stage.answer(command())
    await stage.acknowledge(placed, ActuationKind.READY)
    await stage.until(lambda one: one.status is PlacementStatus.CONVERGED)
    await stage.stop()
    assert [] == await stage.judged(inventory, dict.fromkeys(names, 8))
