"""A model in plain sets against the inventory: whatever is tried, in whatever order, both say the same and nothing is given twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from heteroscale.contracts.names import DecisionId
from heteroscale.placement.inventory.entries import InstanceEntry, Standing
from heteroscale.placement.inventory.gang import Gang, Outcome, Verdict
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.inventory.protocol import Inventory, NodeSync
from heteroscale.placement.inventory.redis import RedisInventory, connect
from support import history
from support.brokers import unique_prefix
from support.gangs import Proposer, built, node

NODES = ("n1", "n2", "n3")
SERVICES = ("a", "b")
GPUS = dict.fromkeys(NODES, 4)
T = TypeVar("T")
_numbers = itertools.count()


class Model(RuleBasedStateMachine):
    """Owners per GPU, written down as a person would; the inventory is asked after every step."""

    address: ClassVar[str | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.inventory: Inventory = self._opened()
        self.fleet = f"f{next(_numbers)}"
        self.owned: dict[str, InstanceEntry] = {}
        self.standing = dict.fromkeys(NODES, Standing.READY)
        self.answers: list[tuple[Gang, Outcome]] = []
        self.born = 0

    def _opened(self) -> Inventory:
        if self.address is None:
            return MemoryInventory()
        return RedisInventory(connect(self.address, timeout_ms=2_000), prefix=unique_prefix())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end."""
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        """A fleet of three nodes, four GPUs each."""
        fence = self.run(built(self.inventory, *(node(name, gpus=4) for name in NODES), fleet=self.fleet))
        self.proposers = {name: Proposer(self.fleet, fence, service=name) for name in SERVICES}

    def apply(self, gang: Gang) -> Outcome:
        """Ask the inventory."""
        (outcome,) = self.run(self.inventory.apply([gang]))
        self.answers.append((gang, outcome))
        return outcome

    def free(self, name: str) -> int:
        """What the model says is free."""
        return GPUS[name] - sum(entry.held.get(name, 0) for entry in self.owned.values())

    @rule(service=st.sampled_from(SERVICES), wants=st.dictionaries(st.sampled_from(NODES), st.integers(1, 4), min_size=1))
    def reserve(self, service: str, wants: dict[str, int]) -> None:
        """Applied exactly when every node is ready and has enough."""
        self.born += 1
        name = f"{service}-{self.born}"
        proposer = self.proposers[service]
        gang = proposer.gang({name: wants})
        possible = all(self.standing[at] is Standing.READY and self.free(at) >= count for at, count in wants.items())
        outcome = self.apply(gang)
        assert (Verdict.APPLIED if possible else Verdict.CONFLICT) == outcome.verdict
        if possible:
            self.owned[name] = gang.puts[name]
            proposer.seq += 1

    @rule(service=st.sampled_from(SERVICES), pick=st.integers(0, 9))
    def release(self, service: str, pick: int) -> None:
        """Never refused, whatever became of the node."""
        own = sorted(name for name, entry in self.owned.items() if entry.service == service)
        if own:
            name = own[pick % len(own)]
            outcome = self.apply(self.proposers[service].gang(drops=[(name, self.owned[name])]))
            assert Verdict.APPLIED == outcome.verdict
            del self.owned[name]
            self.proposers[service].seq += 1

    @rule(pick=st.integers(0, 99))
    def repeat(self, pick: int) -> None:
        """Any gang again, at any time: applied ones get their first answer; refused ones are stale plans by now, or say the same."""
        if self.answers:
            gang, first = self.answers[pick % len(self.answers)]
            if first.verdict is Verdict.APPLIED:
                assert first == self.apply(gang)

    @rule(service=st.sampled_from(SERVICES))
    def plan_on_an_old_read(self, service: str) -> None:
        """A second plan from the same read never takes effect."""
        proposer = self.proposers[service]
        if proposer.seq:
            stale = Proposer(self.fleet, proposer.fence, service=service)
            stale.seq = proposer.seq - 1
            self.born += 1
            outcome = self.apply(stale.gang({f"{service}-{self.born}": {"n1": 1}}))
            assert Verdict.CONFLICT == outcome.verdict

    @rule(service=st.sampled_from(SERVICES))
    def zombie(self, service: str) -> None:
        """After a take-over the old worker is refused; the new one goes on."""
        before = self.proposers[service].fence
        fence = self.run(self.inventory.take_fence(self.fleet))
        self.born += 1
        outcome = self.apply(self.proposers[service].gang({f"{service}-{self.born}": {"n1": 1}}))
        assert (Verdict.STALE, "fence") == (outcome.verdict, outcome.detail)
        assert before < fence
        for proposer in self.proposers.values():
            proposer.fence = fence

    @rule(service=st.sampled_from(SERVICES), back=st.integers(1, 3))
    def late_command(self, service: str, back: int) -> None:
        """A command below the newest revision never takes effect."""
        proposer = self.proposers[service]
        if proposer.seq:
            older = msgspec.structs.replace(proposer.command, revision=proposer.command.revision - back, id=DecisionId("z" * 16))
            assert (Verdict.STALE, "command") == ((out := self.apply(proposer.gang(command=older))).verdict, out.detail)

    @rule(name=st.sampled_from(NODES), standing=st.sampled_from([Standing.READY, Standing.CORDONED, Standing.LOST]))
    def stand(self, name: str, standing: Standing) -> None:
        """A fleet change: what is held stays held."""
        image = self.run(self.inventory.read(self.fleet))
        assert image is not None
        fresh = msgspec.structs.replace(image.nodes[name], standing=standing)
        sync = NodeSync(fleet=self.fleet, gen=1, fence=self.proposers["a"].fence, rev=image.rev, nodes={name: fresh})
        assert Verdict.APPLIED == self.run(self.inventory.sync(sync)).verdict
        self.standing[name] = standing

    @invariant()
    def same(self) -> None:
        """NO-LEAK and NO-OVERLAP: the inventory holds what the model holds, and all accounts add up."""
        image = self.run(self.inventory.read(self.fleet)) if hasattr(self, "proposers") else None
        if image is not None:
            assert self.owned == dict(image.instances)
            assert {name: self.free(name) for name in NODES} == {name: entry.free for name, entry in image.nodes.items()}

    def teardown(self) -> None:
        """The whole history is sound."""
        assert [] == history.of_gangs(self.answers, GPUS)
        self.run(self._cleaned())
        self.loop.close()

    async def _cleaned(self) -> None:
        if isinstance(self.inventory, RedisInventory):
            await self.inventory._client.delete(*self.inventory.keys(self.fleet))
        await self.inventory.close()


class RedisModel(Model):
    """The same model against the scripts."""


def test_the_twin_behaves_as_the_model() -> None:
    """The inventory in memory."""
    run_state_machine_as_test(Model, settings=settings(max_examples=60, stateful_step_count=30, derandomize=True))


@pytest.mark.redis
def test_the_scripts_behave_as_the_model(redis_url: str) -> None:
    """The scripts on a real Redis."""
    RedisModel.address = redis_url
    run_state_machine_as_test(RedisModel, settings=settings(max_examples=40, stateful_step_count=25, derandomize=True))
