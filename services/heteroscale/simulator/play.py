"""One run from its topics' creation to its closing figures, over any log and with any crew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from heteroscale.bus import catalogue
from heteroscale.bus.log import Log
from heteroscale.runtime.clock import SYSTEM
from heteroscale.simulator import closing
from heteroscale.simulator.closing import Closing
from heteroscale.simulator.cluster import world
from heteroscale.simulator.cluster.world import Scene, World
from heteroscale.simulator.figures import view
from heteroscale.simulator.figures.seen import Seen
from heteroscale.simulator.figures.view import View
from heteroscale.simulator.loop.crew import Crew
from heteroscale.simulator.loop.lockstep import Lockstep


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
