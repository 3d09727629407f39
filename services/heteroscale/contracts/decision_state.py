"""decision-state.v1: everything a decision worker must know of a service to go on, with the input offsets it includes."""

from __future__ import annotations

from heteroscale.contracts.commands import Command
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.message import Message
from heteroscale.contracts.names import ServiceName


class LawState(Message, frozen=True, kw_only=True):
    """What the law carries from window to window."""


class DecisionState(Message, frozen=True, kw_only=True):
    """State after a decision. `inputs` maps `topic-partition` to the next offset that the state does not include."""

    service: ServiceName
    inputs: dict[str, int]
    law: LawState
    decision: Decision | None = None
    command: Command | None = None
