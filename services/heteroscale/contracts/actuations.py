"""actuations.v1: what actuators report back."""

from __future__ import annotations

import enum

from heteroscale.contracts.message import AtMs, FreeText, Message
from heteroscale.contracts.names import FleetName, InstanceName, ServiceName


class ActuationKind(enum.StrEnum):
    """`failed` and `stopped` both say: no process is left."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


class Actuation(Message, frozen=True, kw_only=True):
    """An acknowledgement for one instance."""

    service: ServiceName
    fleet: FleetName
    instance: InstanceName
    at_ms: AtMs
    kind: ActuationKind
    actuator: FreeText
    detail: FreeText | None = None
