"""The law in a closed loop: a plant on virtual time that starts, drains and fails as engines do, and traces from public reports."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from heteroscale.contracts.decisions import Action, Decision
from support import lawbook
from support.lawbook import HOP_MS, Run, counts

DEFAULTS: dict[str, Any] = {
    "scale_out": {"cooldown": "60s"},
    "scale_in": {
        "stabilization": "300s",
        "cooldown": "600s",
        "policies": [{"type": "percent", "value": 20, "period": "300s"}],
        "soft": {"observe": "180s"},
    },
}
HOUR = 3_600_000 // HOP_MS
SATURATION = 1.3  # an instance carries at most 1.3 times its target


@dataclass
class Plant:
    """A decode pool: instances start after `delay` hops, drain at once, carry what they can; the rest of the load is missed."""

    run: Run
    load: Callable[[int], float]
    delay: int = 10
    capacity: int = 10_000
    heard: Callable[[int], bool] = lambda _: True
    born: list[int] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    missed: int = 0
    last: float = 0.0

    def go(self, hops: int) -> Plant:
        """Run for some windows."""
        for at in range(len(self.decisions), len(self.decisions) + hops):
            self._hop(at)
        return self

    def _hop(self, at: int) -> None:
        serving = sum(at - birth >= self.delay for birth in self.born)
        offered = self.load(at)
        self.missed += offered > serving * SATURATION
        carried = min(offered, serving * SATURATION)
        self.last = (3 * self.last + carried) / 4
        if self.heard(at):
            decision = self.run.window(decode=serving, loading=len(self.born) - serving, load=self.last)
        else:
            decision = self.run.window(decode=0, silent=serving, load=None, coverage=0.0)
        self.decisions.append(decision)
        wanted = min(counts(decision)["decode"] + decision.after["decode"].draining, self.capacity)
        self.born = sorted(self.born)[:wanted] + [at] * max(0, wanted - len(self.born))

    def turns(self) -> int:
        """Changes of direction."""
        ways = [decision.action for decision in self.decisions if decision.action in {Action.SCALE_OUT, Action.SCALE_IN}]
        return sum(a != b for a, b in itertools.pairwise(ways))

    def high(self) -> int:
        """The largest count ever wanted."""
        return max(counts(decision)["decode"] for decision in self.decisions)


def plant(load: Callable[[int], float], start: int, **fields: Any) -> Plant:
    """A pool of `start` instances that serve already."""
    run = Run(lawbook.spec(behavior=DEFAULTS, **fields.pop("spec", {})))
    return Plant(run, load, born=[-1_000] * start, last=float(start), **fields)


def test_step_settles_without_overshoot() -> None:
    """Twice the load with a start-up of 150 s: settled within ten minutes, at most one instance above the demand."""
    done = plant(lambda at: 8.0 if at < 20 else 16.0, 8).go(3 * HOUR)
    assert done.high() <= 17
    assert {Action.HOLD} == {decision.action for decision in done.decisions[60:]}
    assert 16 == done.run.n()
    assert 0 == done.turns()


def test_ramp_is_followed_without_turning() -> None:
    """A load that doubles in an hour is followed outward only, and hardly any window misses."""
    done = plant(lambda at: 8.0 + 8.0 * min(1.0, at / HOUR), 9).go(2 * HOUR)
    assert 0 == done.turns()
    assert 0 == done.missed
    assert 16 <= done.run.n() <= 17


def test_spike_costs_one_turn() -> None:
    """A spike of two minutes grows the pool once; it shrinks again calmly, in steps of at most 20 %."""
    done = plant(lambda at: 20.0 if 20 <= at < 28 else 8.0, 8).go(3 * HOUR)
    assert done.turns() <= 1
    ins = [decision for decision in done.decisions if decision.action is Action.SCALE_IN]
    assert all(counts(decision)["decode"] >= 0.8 * decision.before["decode"].replicas - 1 for decision in ins)
    assert 8 <= done.run.n() <= 9


@pytest.mark.parametrize("seed", range(5))
def test_noise_rests(seed: int) -> None:
    """Noise of 10 % around a level: at most one turn in half an hour."""
    noise = np.random.default_rng(seed).normal(1.0, 0.1, 2 * HOUR)
    done = plant(lambda at: 20.0 * float(noise[at]), 20).go(HOUR // 2)
    assert done.turns() <= 1


def test_outage_of_telemetry_changes_nothing() -> None:
    """Half an hour without a word, then the old load: FAIL-STATIC."""
    done = plant(lambda _: 8.0, 8, heard=lambda at: not 20 <= at < 140).go(HOUR)
    assert {8} == {counts(decision)["decode"] for decision in done.decisions}
    assert {"missing_data"} == {decision.reason.value for decision in done.decisions[20:140]}


def test_pool_that_cannot_grow_is_not_asked_for_ever_more() -> None:
    """Saturated instances report 1.3 times their target: what is wanted stays bounded by that, and never cascades."""
    done = plant(lambda at: 8.0 if at < 20 else 40.0, 8, capacity=10).go(HOUR)
    assert done.high() <= 14


# worked traces from public reports


def test_trace_pending_cascade() -> None:
    """Pods that load must not be ordered again: 2 → 4 stays 4 while they start."""
    done = plant(lambda at: 2.0 if at < 4 else 3.8, 2, delay=40).go(40)
    assert 3 <= done.high() <= 4


def test_trace_start_up_holds() -> None:
    """A restart of the whole pool: instances load, nothing serves, nothing is scaled."""
    run = Run(lawbook.spec(behavior=DEFAULTS))
    run.window(decode=6, load=6.0)
    for _ in range(40):
        decision = run.window(decode=0, loading=6, load=None)
        assert (Action.HOLD, 6) == (decision.action, counts(decision)["decode"])


def test_trace_one_jittery_sample_does_not_reset_the_wait() -> None:
    """A window a little above the others does not begin the wait of a scale-in anew."""
    run = Run(lawbook.spec(behavior=DEFAULTS))
    run.window(decode=10, load=10.0)
    waits = [run.window(decode=10, load=6.0 if at != 15 else 6.3).action for at in range(20)]
    assert Action.SCALE_IN in waits


def test_trace_missing_metrics_do_not_scale_in() -> None:
    """An empty answer at peak became zero elsewhere; here it holds."""
    run = Run(lawbook.spec(behavior=DEFAULTS))
    run.window(decode=30, load=30.0)
    assert {30} == {counts(run.window(decode=30, load=None, coverage=None))["decode"] for _ in range(60)}


def test_trace_both_legs_or_neither() -> None:
    """PAIR: every command has the counts of both roles, and prefill never moves without decode having its derived count."""
    done = plant(lambda at: 8.0 + 6.0 * float(np.sin(at / 40)), 8).go(4 * HOUR)
    for command in done.run.commands:
        decode, prefill = (command.roles[role].replicas for role in ("decode", "prefill"))
        assert -(-decode // 2) == prefill


GOLDEN = """
import sys
sys.path.insert(0, {tests!r})
from heteroscale.contracts import codec
from support import lawbook
run = lawbook.Run(lawbook.spec(
    guards=[{{"latency": "tbt", "quantile": "p95", "moderate": "60ms", "severe": "80ms"}}],
    behavior={{"scale_in": {{"stabilization": "60s", "soft": {{"observe": "30s"}}}}}},
))
serving = 6
for at in range(120):
    load = (9 if at // 30 % 2 else 4) + ((at * 7919) % 13 - 6) / 6
    tbt = lawbook.latency(30 + (at * 104729) % 45 if at < 40 else 40)
    decision = run.window(decode=serving, load=load, tbt_ms=tbt)
    serving = decision.after["decode"].replicas
    print(codec.encode(decision).decode())
"""


def test_same_in_same_out_under_two_hash_seeds() -> None:
    """The decision log of a fixed history is the same bytes in two processes with different hash seeds."""
    tests = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120 - one expression
    logs = []
    for seed in ("1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", GOLDEN.format(tests=tests)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        logs.append(done.stdout)
    assert logs[0] == logs[1]
    actions = {json.loads(line)["action"] for line in logs[0].splitlines()}
    assert {"hold", "scale-out", "scale-in"} <= actions
