"""The demo's cast for a part of its day, at half its load, for tests."""

from __future__ import annotations

import yaml

from heteroscale.contracts import codec
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.simulator.cluster import faults, fleet
from heteroscale.simulator.cluster.world import Scene
from heteroscale.simulator.load import traffic

START_MS = 1_715_734_200_000


def scene(hours: float, *mishaps: str, seed: int = 1, prefix: str = "t") -> Scene:
    """Chat and code on the demo's fleet."""
    specs = [codec.convert(ServiceSpec, yaml.safe_load(fleet.demo_text(name))) for name in ("chat.yaml", "code.yaml")]
    traces = [traffic.azure_weekday("conv").scaled(3.0), traffic.azure_weekday("code").scaled(24.0)]
    return Scene(
        specs=specs,
        traffic=[trace.until(hours * 3600) for trace in traces],
        nodes=fleet.parse(fleet.demo_text("fleet.yaml"), "fleet.yaml"),
        start_ms=START_MS,
        prefix=prefix,
        seed=seed,
        faults=[faults.parse(text) for text in mishaps],
    )
