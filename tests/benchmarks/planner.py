"""Planning cycles at 1k, 10k and 50k nodes with 1, 20 and 200 gangs: p50 and p99 of the pure planner.

    PYTHONPATH=tests python tests/benchmarks/planner.py [--cycles N]

"cycle" plans on a topology that is there already (the service caches it by fleet revision); "from scratch" builds it too.
Times are of this process's CPU: the planner does nothing but compute, and other work on the machine is none of its business.
"""
# ruff: noqa: T201 (a benchmark prints its table)

from __future__ import annotations

import argparse
import gc
import time

import numpy as np

from benchmarks import worlds
from heteroscale.contracts.fleet import FleetNode, NodeAt
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning import planner
from heteroscale.placement.planning.model import PlanStatus, Snapshot
from heteroscale.placement.planning.topology import Topology


def main() -> None:
    """Print one row a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=60)
    cycles = parser.parse_args().cycles
    print(worlds.machine())
    print("| nodes | gangs | cycle p50 ms | cycle p99 ms | from scratch ms | placed whole |")
    print("|---|---|---|---|---|---|")
    for nodes in (1_000, 10_000, 50_000):
        view = worlds.large(nodes, seed=7)
        build_ms = _build_ms(view)
        for gangs in (1, 20, 200):
            times, placed = _cycles(view, gangs, cycles)
            p50, p99 = np.percentile(times, [50, 99])
            print(f"| {nodes:,} | {gangs} | {p50:.1f} | {p99:.1f} | {p50 + build_ms:.0f} | {placed:.0%} |", flush=True)


def _cycles(view: Snapshot, gangs: int, cycles: int) -> tuple[list[float], float]:
    """Milliseconds a cycle, each with other gangs, and the share of gangs placed whole."""
    times: list[float] = []
    placed = 0
    planner.plan(view, worlds.gangs(gangs, seed=0))
    for seed in range(1, cycles + 1):
        asked = worlds.gangs(gangs, seed)
        gc.collect()
        begun = time.process_time()
        answers = planner.plan(view, asked)
        times.append((time.process_time() - begun) * 1_000)
        placed += sum(answer.status is PlanStatus.PLACED for answer in answers)
    return times, placed / (cycles * gangs)


def _build_ms(view: Snapshot) -> float:
    topology = view.topology
    s1 = topology.levels[Level.S1]
    records = []
    for at, name in enumerate(topology.names):
        cluster, s2, pod = s1.paths[s1.of[at]]
        kind = topology.types[topology.type[at]]
        records.append(FleetNode(node=name, fleet="f", gpu_type=kind, gpus=8, at=NodeAt(cluster=cluster, s2=s2, s1=pod)))
    begun = time.process_time()
    Topology.build("f", records)
    return (time.process_time() - begun) * 1_000


if __name__ == "__main__":
    main()
