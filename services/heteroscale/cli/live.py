"""The live inventory, for commands that only look: its image, and the planner's view of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from heteroscale.cli.options import connection_of
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import FleetName
from heteroscale.placement import app, state
from heteroscale.placement.inventory.entries import FleetImage
from heteroscale.placement.inventory.protocol import Inventory
from heteroscale.placement.planning.model import Snapshot
from heteroscale.placement.settings import PlacementSettings


@asynccontextmanager
async def inventory() -> AsyncIterator[Inventory]:
    """The inventory of the connection, closed in the end."""
    connection = connection_of()
    given = connection.redis_settings()
    settings = PlacementSettings(**{name: getattr(given, name) for name in given.__struct_fields__})
    opened = app.inventory_for(settings, connection.prefix)
    try:
        yield opened
    finally:
        await opened.close()


async def image(fleet: FleetName) -> FleetImage:
    """Everything that the inventory holds of a fleet. Raises Rejected if it was never built."""
    async with inventory() as opened:
        found = await opened.read(fleet)
    if found is None:
        raise Rejected(
            "no_inventory", f"fleet {fleet!r} has no inventory yet; a running placement service builds it, or did you mean another fleet?"
        )
    return found


def snapshot_of(fleet: FleetName, found: FleetImage) -> Snapshot:
    """What the planner would see now; nothing is reserved by looking."""
    return state.from_image(fleet, 0, found).snapshot({}, {})
