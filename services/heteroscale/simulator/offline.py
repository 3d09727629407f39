"""`simulate`: files in, the whole loop in one process over the log in memory, figures out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.units import Instant
from heteroscale.simulator import policies, world
from heteroscale.simulator.baseline import Baseline
from heteroscale.simulator.closing import Closing, counted_load
from heteroscale.simulator.crew import Tasks
from heteroscale.simulator.embedded import Embedded
from heteroscale.simulator.faults import Fault
from heteroscale.simulator.play import Played, play
from heteroscale.simulator.static import Day
from heteroscale.simulator.traffic import Traffic
from heteroscale.simulator.view import View
from heteroscale.simulator.world import STEP_MS, Scene

START: Final = "2026-01-05T00:00Z"  # a Monday
PREFIX: Final = "simulate"
ANSWER_WITHIN_S: Final = 60.0


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


async def simulate(request: Request, show: Callable[[View], None], log: MemoryLog | None = None) -> Played:
    """Play the request; a `log` that is given can be read afterwards."""
    scene = scene_of(request)
    memory = log or MemoryLog()
    services = Embedded().services()
    if request.policy != policies.OURS:
        here = world.build(scene)
        days = {
            name: Day(model.spec, model.curves, counted_load(scene, model), STEP_MS / 1000, model.prompt_cv)
            for name, model in here.models.items()
        }
        chosen = {name: policies.build(request.policy, day.spec, day) for name, day in days.items()}
        services["decision"] = Baseline(here.specs, chosen).serve
    return await play(scene, memory, Tasks(memory, scene.prefix, services), show, timeout_s=ANSWER_WITHIN_S)


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
