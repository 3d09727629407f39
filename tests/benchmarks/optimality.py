"""How far the planner is from the optimum, on random small fleets: CP-SAT maximises the GPUs placed for the same requests.

    pip install -e '.[bench]' && PYTHONPATH=tests python tests/benchmarks/optimality.py [--fleets N]

The optimum is over what one cycle could place by the same rules (whole units, all roles of a group in one s2, best type
not regarded). Beside the planner: first-fit by s2, best-fit without topology (roles anywhere), and random domains.
"""
# ruff: noqa: T201 (a benchmark prints its table)

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from benchmarks import worlds
from heteroscale.contracts.commands import CommandRole
from heteroscale.contracts.fleet import FleetNode, NodeAt
from heteroscale.contracts.spec import GpuChoice, Level
from heteroscale.placement.planning import planner
from heteroscale.placement.planning.model import Request, Snapshot
from heteroscale.placement.planning.topology import Topology

Seats = list[tuple[str, str, int, int]]
"""Service, role, node, GPUs."""


@dataclass(slots=True)
class Score:
    """What a policy made of one fleet."""

    gpus: int = 0
    pairs: int = 0
    pairs_s1: int = 0
    pairs_s2: int = 0
    high_nodes: int = 0
    stranded: int = 0


def main() -> None:
    """Print the gap's distribution and one row a policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleets", type=int, default=200)
    fleets = parser.parse_args().fleets
    policies: dict[str, Callable[[Snapshot, Sequence[Request], int], Seats]] = {
        "heteroscale": _planner,
        "first-fit by s2": _first_fit,
        "best-fit without topology": _best_fit,
        "random domain": _random,
    }
    totals = {name: Score() for name in policies}
    gaps: list[float] = []
    for seed in range(fleets):
        view, asked = _world(seed)
        optimum = _optimum(view, asked)
        for name, policy in policies.items():
            score = _score(view, asked, policy(view, asked, seed))
            if name == "heteroscale":
                gaps.append(0.0 if optimum == 0 else 1 - score.gpus / optimum)
            for field in ("gpus", "pairs", "pairs_s1", "pairs_s2", "high_nodes", "stranded"):
                setattr(totals[name], field, getattr(totals[name], field) + getattr(score, field))
    print(worlds.machine())
    found = np.array(gaps)
    print(f"gap to CP-SAT over {fleets} fleets: median {np.median(found):.1%}, mean {found.mean():.2%}, ", end="")
    print(f"p95 {np.percentile(found, 95):.1%}, worst {found.max():.1%}, optimal on {(found <= 1e-9).mean():.0%}")
    print("| policy | GPUs placed | pairs in one s1 | pairs in one s2 | nodes taken in high pools | stranded GPUs |")
    print("|---|---|---|---|---|---|")
    for name, score in totals.items():
        s1, s2 = score.pairs_s1 / max(1, score.pairs), score.pairs_s2 / max(1, score.pairs)
        print(f"| {name} | {score.gpus} | {s1:.1%} | {s2:.1%} | {score.high_nodes} | {score.stranded} |")


def _world(seed: int) -> tuple[Snapshot, list[Request]]:
    """Two to three s2 of two to three s1 of two to four nodes, mixed types, partly used; two to four services."""
    draw = np.random.default_rng(seed)
    records = []
    for s2 in range(int(draw.integers(2, 4))):
        main = str(draw.choice(["H20", "L20"]))
        for s1 in range(int(draw.integers(2, 4))):
            for at in range(int(draw.integers(2, 5))):
                kind = main if draw.random() < 0.8 else str(draw.choice(["H20", "L20"]))
                place = NodeAt(cluster="c", s2=f"b{s2}", s1=f"p{s1}")
                records.append(FleetNode(node=f"n{s2}{s1}{at}", fleet="f", gpu_type=kind, gpus=8, at=place))
    topology = Topology.build("f", records)
    used = draw.choice([0, 0, 0, 0, 2, 4, 8], size=len(records)).astype(np.int16)
    view = Snapshot(topology=topology, free=topology.gpus - used, state=topology.state)
    asked = []
    for at in range(int(draw.integers(2, 5))):
        share, units, size = int(draw.integers(1, 3)), int(draw.integers(1, 4)), int(draw.choice([2, 4, 8, 8]))
        types = [GpuChoice(type=name) for name in (["H20"], ["L20"], ["H20", "L20"])[int(draw.integers(0, 3))]]
        roles = {
            "prefill": CommandRole(replicas=units, gpus=size, gpu_types=types),
            "decode": CommandRole(replicas=units * share, gpus=size, gpu_types=types),
        }
        asked.append(worlds.request(f"s{at}", roles, {"prefill": 1, "decode": share}))
    return view, asked


def _unit(asked: Request) -> tuple[dict[str, int], int, int, set[str]]:
    """Ratio, GPUs of an instance, units wanted, types."""
    ratio = asked.command.ratio or {}
    role = asked.command.roles["prefill"]
    return ratio, role.gpus, role.replicas, {choice.type for choice in role.gpu_types}


def _optimum(view: Snapshot, asked: Sequence[Request]) -> int:
    """The most GPUs that whole units can take, each unit inside one s2."""
    model = cp_model.CpModel()
    topology = view.topology
    s2 = topology.levels[Level.S2]
    load: dict[int, list[cp_model.LinearExpr]] = {node: [] for node in range(len(topology.names))}
    objective = []
    for number, one in enumerate(asked):
        ratio, size, wanted, types = _unit(one)
        units = [model.new_int_var(0, wanted, f"u{number}-{domain}") for domain in range(len(s2))]
        model.add(sum(units) <= wanted)
        for domain in range(len(s2)):
            seats = []
            for node in range(int(s2.first[domain]), int(s2.first[domain + 1])):
                if topology.types[topology.type[node]] in types:
                    seat = model.new_int_var(0, int(view.free[node]) // size, f"x{number}-{node}")
                    load[node].append(size * seat)
                    seats.append(seat)
            model.add(sum(seats) == units[domain] * sum(ratio.values()))
            objective.append(units[domain] * sum(ratio.values()) * size)
    for node, held in load.items():
        if held:
            model.add(sum(held) <= int(view.free[node]))
    model.maximize(sum(objective))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = 10
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    if status != cp_model.OPTIMAL:
        raise RuntimeError(f"CP-SAT ended with {solver.status_name(status)}")
    best: int = round(solver.objective_value)
    return best


def _planner(view: Snapshot, asked: Sequence[Request], _seed: int) -> Seats:
    index = view.topology.index
    return [
        (answer.service, instance.role, index[node], gpus)
        for answer in planner.plan(view, asked)
        for group in answer.assignment
        for instance in group.instances
        for node, gpus in instance.nodes.items()
    ]


def _first_fit(view: Snapshot, asked: Sequence[Request], _seed: int) -> Seats:
    """Unit after unit into the first s2 that takes it, nodes in name order."""
    return _greedy(view, asked, lambda _free: list(range(len(view.topology.levels[Level.S2]))))


def _random(view: Snapshot, asked: Sequence[Request], seed: int) -> Seats:
    """Unit after unit into a random s2 that takes it."""
    draw = np.random.default_rng(seed)
    return _greedy(view, asked, lambda _free: draw.permutation(len(view.topology.levels[Level.S2])).tolist())


def _greedy(view: Snapshot, asked: Sequence[Request], order: Callable[[list[int]], list[int]]) -> Seats:
    s2 = view.topology.levels[Level.S2]
    free: list[int] = view.free.tolist()
    seats: Seats = []
    for one in asked:
        for _ in range(_unit(one)[2]):
            for domain in order(free):
                found = _seat_unit(view, one, free, list(range(int(s2.first[domain]), int(s2.first[domain + 1]))))
                if found is not None:
                    seats.extend(found)
                    break
    return seats


def _best_fit(view: Snapshot, asked: Sequence[Request], _seed: int) -> Seats:
    """Instance after instance onto the fullest node that fits, wherever it is."""
    free: list[int] = view.free.tolist()
    seats: Seats = []
    for one in asked:
        for _ in range(_unit(one)[2]):
            nodes = sorted(range(len(free)), key=lambda node: (free[node], node))
            found = _seat_unit(view, one, free, nodes)
            if found is not None:
                seats.extend(found)
    return seats


def _seat_unit(view: Snapshot, one: Request, free: list[int], nodes: list[int]) -> Seats | None:
    ratio, size, _, types = _unit(one)
    seats: Seats = []
    for role, share in ratio.items():
        for _ in range(share):
            fitting = (node for node in nodes if free[node] >= size and view.topology.types[view.topology.type[node]] in types)
            node = next(fitting, None)
            if node is None:
                for _, _, taken, gpus in seats:
                    free[taken] += gpus
                return None
            free[node] -= size
            seats.append((one.command.service, role, node, size))
    return seats


def _score(view: Snapshot, asked: Sequence[Request], seats: Seats) -> Score:
    """A pair is a decode with its nearest prefill; stranded: free GPUs left on nodes that hold something of ours."""
    topology = view.topology
    s1, s2 = topology.levels[Level.S1].of, topology.levels[Level.S2].of
    score = Score(gpus=sum(gpus for *_, gpus in seats))
    free = view.free.astype(int)
    for *_, node, gpus in seats:
        free[node] -= gpus
    touched = {node for *_, node, _ in seats}
    score.stranded = int(sum(free[node] for node in touched))
    score.high_nodes = sum(int(topology.pool[s1[node]]) == 2 for node in touched)
    for one in asked:
        prefill = [node for service, role, node, _ in seats if service == one.command.service and role == "prefill"]
        for service, role, node, _ in seats:
            if service == one.command.service and role == "decode" and prefill:
                score.pairs += 1
                score.pairs_s1 += any(s1[node] == s1[other] for other in prefill)
                score.pairs_s2 += any(s2[node] == s2[other] for other in prefill)
    return score


if __name__ == "__main__":
    main()
