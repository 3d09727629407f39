"""One run from its topics' creation to its closing figures, over any log and with any crew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from heteroscale.bus import catalogue
from heteroscale.bus.log import Log
from heteroscale.runtime.clock import SYSTEM
from heteroscale.simulator import closing, view, world
from heteroscale.simulator.closing import Closing
from heteroscale.simulator.crew import Crew
from heteroscale.simulator.lockstep import Lockstep
from heteroscale.simulator.seen import Seen
from heteroscale.simulator.view import View
from heteroscale.simulator.world import Scene, World


@dataclass(frozen=True, slots=True)
class Played:
    """A finished run."""

    world: World
    closing: Closing
    wall_s: float


async def play(scene: Scene, log: Log, crew: Crew, show: Callable[[View], None], *, timeout_s: float) -> Played:
    """Play the scene to its end. Raises Broken that says who did not answer, Rejected for faults that name nothing."""
    here = world.build(scene)
    await catalogue.create(log, scene.prefix, keep_forever=True)
    steps = Lockstep(here, log, SYSTEM, timeout_s, crew.died)
    try:
        await steps.open()
        await crew.start()
        started = SYSTEM.monotonic_s()

        def on_hop(state: World, seen: Seen, _: int) -> None:
            show(view.of(state, seen))

        await steps.play(scene.ends_at_ms + 1, on_hop)
        wall_s = SYSTEM.monotonic_s() - started
    finally:
        await steps.close()
        await crew.stop()
    return Played(here, await closing.close(log, scene, here.models), wall_s)
