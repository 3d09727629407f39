"""Seeded fleets and requests for the placement benchmarks."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

from heteroscale.contracts.commands import Command, CommandRole
from heteroscale.contracts.fleet import FleetNode, NodeAt
from heteroscale.contracts.names import DecisionId
from heteroscale.contracts.spec import GpuChoice
from heteroscale.placement.planning.model import IdSource, Request, Snapshot
from heteroscale.placement.planning.topology import Topology

S1_NODES = 16
S2_S1 = 16


def machine() -> str:
    """One line on the machine, for tables."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return f"{cpu}, {cores} cores, Python {platform.python_version()}, numpy {np.__version__}"


def large(nodes: int, seed: int) -> Snapshot:
    """Pods of 16 nodes of 8 GPUs, 16 pods a spine block; two thirds of the blocks of one type, half of the nodes held."""
    draw = np.random.default_rng(seed)
    types = ("H20", "L20", "H800")
    block_types = draw.integers(0, 3, size=nodes // (S1_NODES * S2_S1) + 1)
    mixed = draw.random(len(block_types)) < 1 / 3
    records = []
    for at in range(nodes):
        s1, s2 = at // S1_NODES, at // (S1_NODES * S2_S1)
        kind = block_types[s2]
        if mixed[s2] and s1 % 4 == 0:
            kind = (kind + 1 + at % 2) % 3
        place = NodeAt(cluster="c", s2=f"b{s2:04}", s1=f"p{s1:05}")
        records.append(FleetNode(node=f"n{at:06}", fleet="f", gpu_type=types[kind], gpus=8, at=place))
    topology = Topology.build("f", records)
    held = draw.choice([0, 0, 0, 0, 2, 4, 8, 8, 8, 8], size=nodes).astype(np.int16)
    return Snapshot(topology=topology, free=topology.gpus - held, state=topology.state)


def gangs(count: int, seed: int) -> list[Request]:
    """New services of 1 or 2 units at 1:2 or 1:3 (3 to 8 instances), whole nodes or halves, a third of them on two types."""
    draw = np.random.default_rng(seed)
    made = []
    for at in range(count):
        share, units, size = int(draw.integers(2, 4)), int(draw.integers(1, 3)), int(draw.choice([4, 8, 8, 8, 16]))
        main = str(draw.choice(["H20", "L20", "H800"]))
        types = (
            [GpuChoice(type=main)] if draw.random() < 2 / 3 else [GpuChoice(type=main), GpuChoice(type="H20" if main != "H20" else "L20")]
        )
        roles = {
            "prefill": CommandRole(replicas=units, gpus=size, gpu_types=types),
            "decode": CommandRole(replicas=units * share, gpus=size, gpu_types=types),
        }
        made.append(request(f"s{at:04}", roles, {"prefill": 1, "decode": share}, priority=int(draw.integers(1, 4)) * 100))
    return made


def request(service: str, roles: dict[str, CommandRole], ratio: dict[str, int], priority: int = 100) -> Request:
    """A request with the spec's defaults."""
    command = Command(
        id=DecisionId("d"),
        revision=1,
        service=service,
        fleet="f",
        at_ms=0,
        decision_id=DecisionId("d"),
        priority=priority,
        roles=roles,
        ratio=ratio,
    )
    return Request(command=command, ids=IdSource(service, "1.1"))
