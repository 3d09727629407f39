"""What the integration tests of placement share."""

from __future__ import annotations

import pytest

from heteroscale.bus.log import Log
from heteroscale.placement.inventory.protocol import Inventory
from support.placement_stage import WORLDS, AtEnd, world_of


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, at_end: AtEnd) -> tuple[Log, Inventory]:
    """A log and an inventory: both in memory, or both real."""
    return world_of(request, at_end)
