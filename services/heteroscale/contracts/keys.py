"""Record keys: whom each one names.

SERVICE            telemetry, signals, specs, decisions, decision-state, placements
SERVICE#hHOUR      decision-state: the copy of an hour of the week, 0 to 167
SERVICE#dry-run    placements: the answer to a dry run
FLEET              commands, actuations
FLEET/NODE         fleet
"""

from __future__ import annotations

from typing import Final

from heteroscale.contracts.names import FleetName, NodeName, ServiceName
from heteroscale.contracts.units import MS_PER_UNIT

_DRY_RUN: Final = "#dry-run"
_HOUR: Final = "#h"
_HOURS_PER_WEEK: Final = 168
_MONDAY_H: Final = 3 * 24  # the epoch began on a Thursday: three days after Monday


def text_of(key: bytes | None) -> str:
    """A key as text: none is empty, and what is not UTF-8 is replaced."""
    return (key or b"").decode("utf-8", "replace")


def service_of(key: bytes | None) -> ServiceName:
    """The service that a key names; the keys of its dry runs and of its hourly copies name it too."""
    name = text_of(key).removesuffix(_DRY_RUN)
    service, mark, hour = name.rpartition(_HOUR)
    return service if mark and hour.isdigit() else name


def dry_run_key(service: ServiceName) -> bytes:
    """The key of an answer to a dry run, which never takes the place of the real assignment."""
    return f"{service}{_DRY_RUN}".encode()


def is_dry_run(key: bytes | None) -> bool:
    """Whether it is the key of an answer to a dry run."""
    return key is not None and key.endswith(_DRY_RUN.encode())


def hourly_key(service: ServiceName, at_ms: int) -> bytes:
    """The key of the copy that a state leaves in the hour of the week of `at_ms`; 0 is Monday 00:00 UTC."""
    hour = (at_ms // MS_PER_UNIT["h"] + _MONDAY_H) % _HOURS_PER_WEEK
    return f"{service}{_HOUR}{hour}".encode()


def is_hourly(key: bytes) -> bool:
    """Whether it is the key of an hourly copy."""
    _, mark, hour = key.rpartition(_HOUR.encode())
    return bool(mark) and hour.isdigit()


def node_key(fleet: FleetName, node: NodeName) -> str:
    """The key of a node on fleet.v1."""
    return f"{fleet}/{node}"


def node_of(key: bytes | None) -> tuple[FleetName, NodeName]:
    """The fleet and the node that a key of fleet.v1 names; either is empty where the key is of another form."""
    fleet, _, node = text_of(key).partition("/")
    return fleet, node
