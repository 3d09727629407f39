"""How fast a simulated day is: `python tests/benchmarks/simulator.py [HOURS…]`. 2,000 instances, 5 s steps, one core.

The direct run (production decision and placement cores, no telemetry) over growing times, with peak memory, so that linear cost and
flat memory can be read off; then a quarter of an hour through the services over the log in memory, for comparison. Times are CPU time.
"""
# ruff: noqa: T201 (a benchmark prints its table)

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time

from heteroscale.contracts import codec
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.simulator import offline
from heteroscale.simulator.figures.view import View
from heteroscale.simulator.load import traffic
from heteroscale.simulator.offline import Through

SERVICES = 4
TARGET_INSTANCES = 2_000


def spec(index: int) -> ServiceSpec:
    """A quarter of the instances: 100 decode and up to 500 prefill."""
    return codec.convert(
        ServiceSpec,
        {
            "service": f"chat-{index}",
            "slo": {"ttft": "2s", "tbt": "70ms"},
            "roles": {
                "prefill": {"min": 50, "max": 600, "gpus": 8, "gpu_types": [{"type": "H20"}]},
                "decode": {"min": 10, "max": 120, "gpus": 8, "gpu_types": [{"type": "H20"}]},
            },
            "ratio": {"prefill": 5, "decode": 1},
            "signals": [
                {"metric": "decode_tps", "role": "decode", "target": 4400},
                {"metric": "prefill_missed_tps", "role": "prefill", "target": 13600},
            ],
            "window": {"size": "60s", "hop": "60s", "interval": "5s"},
        },
    )


def fleet() -> list[FleetNode]:
    """3,072 nodes of 8 GPUs."""
    return [
        codec.convert(
            FleetNode,
            {
                "node": f"n{index:05d}",
                "fleet": "default",
                "gpu_type": "H20",
                "gpus": 8,
                "at": {"cluster": "c1", "s2": f"s{index // 256}", "s1": f"l{index // 32}"},
            },
        )
        for index in range(3_072)
    ]


def request(hours: float, through: Through) -> offline.Request:
    """Four services under the weekday's conversation load, scaled to 2,000 instances at its peak."""
    return offline.Request(
        specs=[spec(index) for index in range(SERVICES)],
        traffic=[traffic.azure_weekday("conv").until(hours * 3600)],
        nodes=fleet(),
        scale=50.0,
        through=through,
    )


def measure(hours: float, through: Through) -> None:
    """Play, and print one line."""
    logs.configure(LogFormat.CONSOLE, LogLevel.ERROR)
    most = [0]
    began = time.process_time()

    def count(view: View) -> None:
        most[0] = max(most[0], sum(sum(service.replicas.values()) + service.pending for service in view.services))

    played = offline.run(request(hours, through), count)
    spent = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    summary = played.closing.summary
    print(
        f"{through.value:>8} {hours:5g} h {most[0]:6d} instances {spent:8.1f} s CPU {spent / hours:7.2f} s/h {memory:7.0f} MB peak  "
        f"attainment {summary.slo_attainment}",
        flush=True,
    )


def main() -> None:
    """Each length in a process of its own, so that peak memory is its own."""
    if sys.argv[1:2] == ["--one"]:
        measure(float(sys.argv[2]), Through(sys.argv[3]))
        return
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}; target {TARGET_INSTANCES} instances")
    runs = [(hours, Through.CORES) for hours in map(float, sys.argv[1:] or ["6", "12", "24"])] + [(0.25, Through.SERVICES)]
    for hours, through in runs:
        subprocess.run([sys.executable, __file__, "--one", str(hours), through.value], check=True)


if __name__ == "__main__":
    main()
