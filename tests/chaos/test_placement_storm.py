"""Everything at once, by seed: commands, acknowledgements, dying workers, dying and forgetting Redis, lost replies, lost nodes.

Safety first: the books are checked after every healed step. Then liveness: all faults end, and every service converges.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from heteroscale.bus.log import Log
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.fleet import NodeState
from heteroscale.contracts.placements import InstanceState, Placement, PlacementStatus
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.inventory.redis import RedisInventory, connect
from support import history
from support.gangs import node
from support.history import Recorder
from support.own_redis import OwnRedis, Proxy
from support.placement_driver import actuation, command
from support.placement_stage import Stage, instances

pytestmark = [pytest.mark.chaos, pytest.mark.redis]

AtEnd = list[Callable[[], Awaitable[None]]]
S = InstanceState
K = ActuationKind
GPUS = {f"n{at:02d}": 8 for at in range(16)}
SERVICES = ("a", "b", "c")
STEPS = 40
WEIGHTS = {"order": 6, "obey": 6, "node": 2, "replies": 3, "worker": 2, "two": 1, "redis": 1, "forget": 1}


class Storm:
    """The world: what was commanded, and actuators that obey late."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.dice = random.Random(seed)
        self.clock_ms = 0
        self.revision = dict.fromkeys(SERVICES, 0)
        self.size = dict.fromkeys(SERVICES, 1)
        self.lost: set[str] = set()

    def newest(self) -> dict[str, Placement]:
        """Newest Placement per service."""
        return {one.service: one for one in sorted(self.stage.placements, key=lambda one: (one.gen, one.seq or 0))}

    async def order(self) -> None:
        """A new size for some service."""
        service = self.dice.choice(SERVICES)
        self.clock_ms += self.dice.choice([1_000, 15_000, 60_000])
        self.revision[service] += 1
        self.size[service] = self.dice.randint(0, 2)
        await self.affirm(service)

    def be_modest(self) -> None:
        """Ask for no more than there is, so that everybody can be served in the end."""
        while 3 * sum(self.size.values()) > len(GPUS):
            service = max(SERVICES, key=self.size.__getitem__)
            self.size[service] -= 1
            self.revision[service] += 1

    async def affirm(self, service: str) -> None:
        """The newest command again."""
        self.clock_ms += 1
        await self.stage.send(command(self.size[service], service=service, revision=max(1, self.revision[service]), after_ms=self.clock_ms))

    async def obey(self, share: float = 0.7) -> None:
        """Acknowledge what the newest Placements ask for: most of it, some twice, some failing."""
        for service, placement in sorted(self.newest().items()):
            for one in instances(placement):
                if self.dice.random() > share:
                    continue
                if one.state in (S.RESERVED, S.STARTING):
                    kind = K.FAILED if share < 1 and self.dice.random() < 0.1 else K.READY
                elif one.state in (S.STOPPING, S.FAILED):
                    kind = K.STOPPED
                else:
                    continue
                await self.stage.send(actuation(one.id, kind, service=service), *self.twice(one.id, kind, service))

    def twice(self, name: str, kind: ActuationKind, service: str) -> list[Actuation]:
        """Sometimes an acknowledgement comes again."""
        return [actuation(name, kind, service=service)] if self.dice.random() < 0.2 else []

    async def lose_or_find(self) -> None:
        """A node goes, or one comes back."""
        name = self.dice.choice(sorted(GPUS))
        self.lost ^= {name}
        await self.stage.nodes(node(name, state=NodeState.LOST if name in self.lost else NodeState.READY))

    async def read(self) -> None:
        """See what is on the log by now."""
        try:
            async with asyncio.timeout(0.15):
                await self.stage.until(lambda _: False)
        except TimeoutError:
            pass


@pytest.mark.parametrize("seed", range(6))
async def test_safety_then_liveness(seed: int, tmp_path: Path, memory_log: Log, at_end: AtEnd) -> None:
    """NO-OVERLAP, ONCE, PAIR and NO-LEAK through the storm; every service whole after it."""
    await weathered(seed, WEIGHTS, tmp_path, memory_log, at_end)


@pytest.mark.parametrize("seed", range(10, 14))
async def test_every_answer_of_a_server_that_forgets_nothing_holds(seed: int, tmp_path: Path, memory_log: Log, at_end: AtEnd) -> None:
    """With appendfsync always, kill -9 included, all reservations ever answered stand on one line on which no GPU has two owners."""
    recorder = await weathered(seed, WEIGHTS | {"forget": 0, "two": 3, "redis": 3}, tmp_path, memory_log, at_end)
    assert [] == history.of_gangs(recorder.answers, GPUS, recorder.sent)
    assert len({gang.id for gang, _ in recorder.answers}) > STEPS / 2


async def weathered(seed: int, weights: Mapping[str, int], tmp_path: Path, memory_log: Log, at_end: AtEnd) -> Recorder:
    """One storm; what the inventory answered in it."""
    if not OwnRedis.possible():
        pytest.skip("capability redis-server: none on PATH")
    with OwnRedis(tmp_path) as server:
        proxy = Proxy(server.port)
        await proxy.start()
        at_end.append(proxy.close)
        real = RedisInventory(connect(f"redis://127.0.0.1:{proxy.port}/0", timeout_ms=500), timeout_ms=500)
        at_end.append(real.close)
        inventory: Any = (recorder := Recorder(real))
        stage = Stage(memory_log, "heteroscale")
        at_end.append(stage.close)
        await stage.build(*(node(name) for name in GPUS))
        storm = Storm(stage, seed)
        stage.start(inventory)
        for _ in range(STEPS):
            (step,) = storm.dice.choices([*weights], [*weights.values()])
            await one_step(step, storm, stage, server, proxy, inventory)
            await storm.read()
        proxy.lose_replies = 0
        storm.be_modest()
        for name in sorted(storm.lost):
            await stage.nodes(node(name))
        async with asyncio.timeout(30):
            while not healed(storm) or not await caught_up(stage, inventory):
                for service in SERVICES:
                    await storm.affirm(service)
                await storm.read()
                await storm.obey(share=1.0)
                await storm.read()
        await stage.stop()
        assert [] == await stage.judged(inventory, GPUS)
    return recorder


async def one_step(step: str, storm: Storm, stage: Stage, server: OwnRedis, proxy: Proxy, inventory: Inventory) -> None:
    """One thing happens."""
    match step:
        case "order":
            await storm.order()
        case "obey":
            await storm.obey()
        case "node":
            await storm.lose_or_find()
        case "replies":
            proxy.lose_replies = storm.dice.randint(1, 4)
            await storm.order()
        case "worker":
            await stage.kill()
            stage.start(inventory)
        case "two":
            stage.start(inventory, group="zombie")
        case "redis":
            await storm.order()
            server.kill()
            server.start()
        case _:  # power: the server forgets its end, and a worker may live on with what it was told before
            if storm.dice.random() < 0.5:
                await stage.kill()
            else:
                await storm.order()
            server.kill()
            server.cut_short(storm.dice.randint(1, 4_000))
            server.start()
            if not stage.workers:
                stage.start(inventory)


async def caught_up(stage: Stage, inventory: Inventory) -> bool:
    """Whether the last fleet records are in the inventory; whoever waits for nothing may be stopped before that."""
    return not any(one.startswith("SAME-FLEET") for one in await stage.judged(inventory, GPUS))


def healed(storm: Storm) -> bool:
    """Every service has what its newest command says."""
    newest = storm.newest()
    return all(
        service in newest
        and newest[service].status is PlacementStatus.CONVERGED
        and newest[service].revision >= storm.revision[service]
        and 3 * storm.size[service] == sum(one.state is S.READY for one in instances(newest[service]))
        for service in SERVICES
    )
