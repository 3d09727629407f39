"""What the look-back of a scale-in and the target cost together: `python tests/benchmarks/settings.py [demo] [CASE…]`.

The demo's day and the cases of the outcome, played by the production cores without a log, one seed. Without arguments the demo and
the two Azure days. The targets of a role move together: as shares of the measured rates in the cases, of the demo's specs in the demo.
"""
# ruff: noqa: T201 (a benchmark prints its table)

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.units import Duration
from heteroscale.simulator import demo, offline, policies
from heteroscale.simulator.cores import direct
from heteroscale.simulator.outcome import cases, trial
from heteroscale.simulator.outcome.trial import Order, Stage

DEMO = "demo"
LOOK_BACKS_MIN = (5, 10, 30, 60)
SHARES = (0.76, 0.84, 0.92)
DEMO_SHARES = (0.94, 1.0)
HEAD = "| trace | look-back | targets | GPU-hours | within SLO | actions | turns |\n|---|---|---|---|---|---|---|"


def changed(spec: ServiceSpec, look_back_min: int, factor: float) -> ServiceSpec:
    """The spec with another look-back, and all targets times `factor`."""
    replaced = msgspec.structs.replace
    scale_in = replaced(spec.behavior.scale_in, stabilization=Duration(look_back_min * 60_000))
    signals = [replaced(signal, target=(signal.target or 1.0) * factor) for signal in spec.signals]
    return replaced(spec, behavior=replaced(spec.behavior, scale_in=scale_in), signals=signals)


def demo_rows(look_back_min: int, share: float) -> Iterator[str]:
    """Both services of the demo."""
    scene = demo.scene("settings", demo.Options())
    specs = [changed(spec, look_back_min, share) for spec in scene.specs]
    played = offline.directly(replace(scene, specs=specs), policies.OURS, lambda _view: None)
    for name, found in played.closing.services.items():
        hours = sum(found.gpu_seconds.values()) / 3600
        counts = f"{found.scale_actions} | {found.direction_changes}"
        yield f"| demo, {name} | {look_back_min} min | {share:.0%} | {hours:,.0f} | {found.in_slo / found.requests:.2%} | {counts} |"


def case_row(name: str, look_back_min: int, share: float) -> str:
    """A case of the outcome, its first 24 hours at most."""
    order = Order(case=name, policy=policies.OURS, setting=share, hours=24.0)
    ground = trial.ground(name, order.seed, order.startup_s, order.hours)
    stage = Stage(order, ground, changed(cases.spec_of(ground.traffic, share), look_back_min, 1.0))
    found = stage.run(direct.Ours(stage.spec))
    counts = f"{found.scale_actions} | {found.direction_changes}"
    return f"| {name} | {look_back_min} min | {share:.0%} | {found.gpu_hours:,.0f} | {found.slo_attainment:.2%} | {counts} |"


def main() -> None:
    """The table."""
    names = sys.argv[1:] or [DEMO, "azure-2024-code", "azure-2024-conv"]
    print(HEAD)
    for name in names:
        for look_back_min in LOOK_BACKS_MIN:
            for share in DEMO_SHARES if name == DEMO else SHARES:
                rows = demo_rows(look_back_min, share) if name == DEMO else [case_row(name, look_back_min, share)]
                print(*rows, sep="\n", flush=True)


if __name__ == "__main__":
    main()
