"""`simulate`: files in, the whole loop in one process over the log in memory, figures out."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.units import Instant
from heteroscale.runtime.clock import SYSTEM
from heteroscale.simulator import closing, policies
from heteroscale.simulator.closing import Closing
from heteroscale.simulator.cluster import world
from heteroscale.simulator.cluster.faults import TELEMETRY_FAULTS, Fault
from heteroscale.simulator.cluster.world import Scene, World
from heteroscale.simulator.cores import direct
from heteroscale.simulator.figures import view
from heteroscale.simulator.figures.view import View
from heteroscale.simulator.load.traffic import Traffic
from heteroscale.simulator.loop.baseline import Baseline
from heteroscale.simulator.loop.crew import Tasks
from heteroscale.simulator.loop.embedded import Embedded
from heteroscale.simulator.play import Played, play

START: Final = "2026-01-05T00:00Z"  # a Monday
PREFIX: Final = "simulate"
ANSWER_WITHIN_S: Final = 60.0
SAMPLES_MAX: Final = 1_500_000  # about three minutes through the services on one core


class Through(enum.StrEnum):
    """What the trace is played through: the services over the log in memory, or their cores called directly.

    AUTO: the services, unless there would be more telemetry than SAMPLES_MAX samples.
    """

    AUTO = "auto"
    SERVICES = "services"
    CORES = "cores"


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked to have simulated. One trace a service, or one for all."""

    specs: Sequence[ServiceSpec]
    traffic: Sequence[Traffic]
    nodes: Sequence[FleetNode]
    profile: str | None = None
    policy: str = policies.OURS
    seed: int = 1
    scale: float = 1.0
    faults: Sequence[Fault] = ()
    through: Through = Through.AUTO


def scene_of(request: Request) -> Scene:
    """The scene on the virtual clock. Raises Rejected when traces and specs do not match."""
    if request.policy not in policies.ABOUT:
        raise Rejected("policy", f"no policy {request.policy!r}; have {', '.join(policies.ABOUT)}", "--policy")
    traffic = list(request.traffic)
    if len(traffic) == 1:
        traffic *= len(request.specs)
    if len(traffic) != len(request.specs):
        raise Rejected(
            "trace", f"{len(request.specs)} specs and {len(traffic)} traces; give one trace a spec, in order, or one for all", "--trace"
        )
    if request.scale <= 0:
        raise Rejected("scale", f"{request.scale:g} leaves no load; write a number above 0", "--scale")
    fleets = sorted({node.fleet for node in request.nodes})
    strange = [spec for spec in request.specs if spec.fleet not in fleets]
    if strange:
        raise Rejected("fleet", f"{strange[0].service} is of fleet {strange[0].fleet}; the file has {', '.join(fleets)}", "--fleet")
    return Scene(
        specs=request.specs,
        traffic=[one.scaled(request.scale) for one in traffic],
        nodes=request.nodes,
        start_ms=Instant.parse(START).ms,
        prefix=PREFIX,
        profile=request.profile,
        seed=request.seed,
        faults=request.faults,
    )


def way(request: Request) -> Through:
    """SERVICES or CORES. Raises Rejected when the cores alone cannot play what was asked for."""
    problem = direct.can_play(request.specs)
    if problem is None and any(fault.kind in TELEMETRY_FAULTS for fault in request.faults):
        problem = "faults of telemetry need telemetry"
    match request.through:
        case Through.SERVICES:
            return Through.SERVICES
        case Through.CORES:
            if problem is not None:
                raise Rejected("through", f"{problem}; play it through the services", "--through")
            return Through.CORES
        case Through.AUTO:
            return Through.CORES if problem is None and samples_of(request) > SAMPLES_MAX else Through.SERVICES


def samples_of(request: Request) -> float:
    """Samples of telemetry if every role stood half-way between its bounds."""
    hours = max((traffic.duration_s for traffic in request.traffic), default=0.0) / 3600
    return sum(
        (bounds.min + bounds.max) / 2 * hours * 3_600_000 / spec.window.interval.ms
        for spec in request.specs
        for bounds in spec.roles.values()
    )


async def simulate(request: Request, show: Callable[[View], None], log: MemoryLog | None = None) -> Played:
    """Play the request; a `log` that is given can be read afterwards."""
    scene = scene_of(request)
    if log is None and way(request) is Through.CORES:
        return directly(scene, request.policy, show)
    memory = log or MemoryLog()
    services = Embedded().services()
    if request.policy != policies.OURS:
        services["decision"] = baseline_of(scene, world.build(scene), request.policy).serve
    return await play(scene, memory, Tasks(memory, scene.prefix, services), show, timeout_s=ANSWER_WITHIN_S)


def directly(scene: Scene, policy: str, show: Callable[[View], None]) -> Played:
    """The same without a log: see `direct`."""
    here = world.build(scene)
    started = SYSTEM.monotonic_s()
    baseline = None if policy == policies.OURS else baseline_of(scene, here, policy)
    run = direct.Direct(
        here,
        {name: direct.Ours(spec) if baseline is None else baseline.decider(spec) for name, spec in here.specs.items()},
        closing.tallies_of(scene, here.models),
    )
    run.play(scene.ends_at_ms + 1, lambda state, seen: show(view.of(state, seen)))
    return Played(here, closing.of_direct(scene, run), SYSTEM.monotonic_s() - started)


def baseline_of(scene: Scene, here: World, name: str, setting: float | None = None) -> Baseline:
    """A baseline for each service of a scene."""
    chosen = {}
    for service, model in here.models.items():
        chosen[service] = policies.build(name, policies.Setup(model.spec, closing.day_of(scene, model), scene.start_ms, setting=setting))
    return Baseline(here.specs, chosen)


def summary_document(played: Played, request: Request) -> dict[str, object]:
    """The last line of `--json`."""
    figures = msgspec.to_builtins(played.closing.summary)
    if request.policy == "static-peak":
        figures["gpu_hours_static_peak"] = figures["gpu_hours"]
    return {"policy": request.policy, "seed": request.seed, **figures, "wall_s": round(played.wall_s, 3)}


def service_documents(closing: Closing) -> list[dict[str, object]]:
    """One line a service before the summary."""
    return [
        {"service": name, **msgspec.to_builtins(figures), "static_peak": msgspec.to_builtins(closing.static[name])}
        for name, figures in closing.services.items()
    ]


def run(request: Request, show: Callable[[View], None]) -> Played:
    """`simulate` to its end."""
    return asyncio.run(simulate(request, show))
