"""The production services as tasks of this process, with the inventory in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from heteroscale.decision import app as decision
from heteroscale.decision.settings import DecisionSettings
from heteroscale.placement import app as placement
from heteroscale.placement.inventory.memory import MemoryInventory
from heteroscale.placement.settings import PlacementSettings
from heteroscale.runtime.context import Context
from heteroscale.runtime.settings import Switch
from heteroscale.signals import worker as signals
from heteroscale.signals.settings import SignalsSettings
from heteroscale.simulator.loop.crew import Serve


@dataclass(slots=True)
class Embedded:
    """One inventory, and the services around it. Settings are the defaults: the environment has no say in a simulation."""

    inventory: MemoryInventory = field(default_factory=MemoryInventory)

    async def signals(self, context: Context) -> None:
        """Windows; the simulator is the only clock."""
        await signals.serve(context, SignalsSettings(ticker=Switch.OFF))

    async def decision(self, context: Context) -> None:
        """Decisions."""
        await decision.serve(context, DecisionSettings())

    async def placement(self, context: Context) -> None:
        """Placements."""
        await placement.serve(context, PlacementSettings(), self.inventory)

    def services(self) -> dict[str, Serve]:
        """By name, in the order they start."""
        return {"placement": self.placement, "decision": self.decision, "signals": self.signals}
