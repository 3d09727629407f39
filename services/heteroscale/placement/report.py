"""What the placement service says about itself: one line a gang, metrics, and what it waits for."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from heteroscale.contracts.names import FleetName
from heteroscale.contracts.placements import InstanceState
from heteroscale.placement.inventory.gang import Gang
from heteroscale.placement.life import STARTED
from heteroscale.placement.reconcile import Kind
from heteroscale.placement.reconciler import Look
from heteroscale.placement.reservation import Carried
from heteroscale.placement.state import FleetState
from heteroscale.placement.takeover import Taken
from heteroscale.runtime import logs, metrics
from heteroscale.runtime.metrics import Metrics

ACCOUNTS_EVERY_S: Final = 5.0
NAMED_MAX: Final = 20


class Report:
    """Log lines and metrics of one worker."""

    def __init__(self, registry: Metrics) -> None:
        self._metrics = registry
        self._logger = logs.logger()
        self._said: str | None = None
        self._accounts_due_s: dict[FleetName, float] = {}

    def warning(self, text: str) -> None:
        """Something in the configuration weakens a guarantee."""
        self._logger.warning("inventory_configuration", warning=text)

    def assigned(self, partitions: list[int]) -> None:
        """The group gave these partitions."""
        self._logger.info("partitions_assigned", partitions=partitions)

    def taken(self, fleet: FleetName, taken: Taken) -> None:
        """A fleet is ours now."""
        self._metrics.add(metrics.PLACEMENT_TAKEOVERS, 1, kind="rebuilt" if taken.rebuilt else "read")
        self._logger.info(
            "fleet_taken_over", fleet=fleet, fence=taken.state.fence, gen=taken.state.gen, rebuilt=taken.rebuilt, published=taken.published
        )

    def fenced(self, fleet: FleetName) -> None:
        """Another worker has the fleet."""
        self._metrics.add(metrics.PLACEMENT_REFUSED, 1, why="fence")
        self._logger.warning("fenced_off", fleet=fleet)

    def dropped(self, why: str) -> None:
        """A batch went to another worker."""
        self._logger.info("batch_left_to_others", why=why)

    def reconciled(self, fleet: FleetName, look: Look) -> None:
        """Inventory, log and actuators were compared."""
        count = Counter(one.kind for one in look.found)
        for kind in Kind:
            self._metrics.set(metrics.PLACEMENT_DISAGREEMENTS, count[kind], fleet=fleet, kind=kind.value)
        if look.found:
            self._logger.warning(
                "disagreement",
                fleet=fleet,
                found=[f"{one.kind.value} {one.subject}" for one in look.found[:NAMED_MAX]],
                count=len(look.found),
                republished=look.republished,
                heard_again=len(look.again),
                restated=sorted(look.restate),
                haunted=sorted(look.haunted),
                departed=sorted(look.departed),
            )

    def waiting(self, awaited: str, pause_ms: int) -> None:
        """Something is away. Said once for each reason."""
        if awaited != self._said:
            self._said = awaited
            self._logger.warning("placement_waiting", awaited=awaited, pause_ms=pause_ms)

    def cycle(self, fleet: FleetName, number: int, carried: Carried, seconds: float) -> None:
        """A cycle is done."""
        self._said = None
        self._metrics.observe(metrics.PLACEMENT_CYCLE_SECONDS, seconds)
        if carried.conflicts:
            self._metrics.add(metrics.PLACEMENT_REFUSED, carried.conflicts, why="conflict")
        for counts in carried.counts:
            for what in ("stale_commands", "repeated_commands", "left_alone", "late_acknowledgements", "unknown_instances"):
                if getattr(counts, what):
                    self._metrics.add(metrics.PLACEMENT_IGNORED, getattr(counts, what), what=what)
        for move in carried.transitions:
            self._metrics.add(metrics.PLACEMENT_TRANSITIONS, 1, before=_named(move.before), after=_named(move.after), reason=move.reason)
        started = {move.instance for move in carried.transitions if move.before in STARTED and move.after is InstanceState.READY}
        for gang, _ in carried.applied:
            self._metrics.add(metrics.PLACEMENT_GANGS, 1)
            for name in sorted(started & gang.puts.keys()):
                one = gang.puts[name]
                self._metrics.observe(metrics.PLACEMENT_START_SECONDS, (one.since_ms - one.reserved_ms) / 1_000, role=one.role)
            self._gang(number, gang, carried.state)
        now_s = asyncio.get_running_loop().time()
        if carried.applied and now_s >= self._accounts_due_s.get(fleet, 0.0):  # they cost a walk over the fleet
            self._accounts_due_s[fleet] = now_s + ACCOUNTS_EVERY_S
            self._accounts(fleet, carried.state)

    def _gang(self, number: int, gang: Gang, state: FleetState) -> None:
        command = gang.state.command
        self._logger.info(
            "gang_applied",
            fleet=state.fleet,
            service=gang.service,
            cycle=number,
            seq=gang.seq + 1,
            command=command.id,
            revision=command.revision,
            born=len(gang.born),
            taken=sum(gang.takes.values()) + sum(gang.adopts.values()),
            freed=sum(gang.frees.values()),
            shortfall=gang.state.shortfall,
        )

    def _accounts(self, fleet: FleetName, state: FleetState) -> None:
        total = sum(node.record.gpus for node in state.nodes.values())
        free = sum(max(0, node.free) for node in state.nodes.values() if node.standing.value == "ready")
        used = sum(node.used for node in state.nodes.values())
        held = sum(sum(one.held.values()) for known in state.services.values() for one in known.instances.values())
        for name, gpus in (("free", free), ("reserved", held), ("foreign", used), ("withheld", total - free - used - held)):
            self._metrics.set(metrics.PLACEMENT_GPUS, gpus, fleet=fleet, state=name)


def _named(state: InstanceState | None) -> str:
    """A label: before birth and after the end there is no state."""
    return state.value if state is not None else "none"
