"""What the planner reads and answers: snapshot, request, plan. Messages of the contracts are used as they are.

How the inventory uses it: build a Topology per fleet revision, a Snapshot and Requests per cycle, call
`planner.plan(snapshot, requests)`, turn each Planned into one gang.

Conventions between the planner and whoever keeps the assignment:

- `Snapshot.free` is the truth about GPUs; the planner never derives it from the assignment. A quarantined GPU is not free.
- A node that is not READY takes nothing. An instance with any part on a LOST node counts as failed even if its state does
  not say so yet; the plan then carries a transition to `failed` (reason `node_lost`). Its GPUs are the inventory's affair.
- `failed` and `stopping` instances are not counted. A `failed` one that is still listed marks a debt of its group: its
  replacement goes into the group's domain. Keep it listed while its group is `degraded` by `node_lost`; else drop it when
  its GPUs are freed.
- A role made of parts has one instance a part; those of one replica share `replica`; counts are of whole replicas.
- What is released goes to `stopping` in `Planned.assignment` (GPUs stay held until `stopped`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from heteroscale.contracts.commands import Command
from heteroscale.contracts.names import InstanceName, NodeName, RoleName, ServiceName, short_hash
from heteroscale.contracts.placements import Explain, Group, InstanceState
from heteroscale.placement.planning.topology import Codes, Counts, Topology


class PlanStatus(enum.StrEnum):
    """What the cycle made of a request."""

    PLACED = "placed"
    PARTIAL = "partial"
    UNPLACED = "unplaced"
    UNCHANGED = "unchanged"


class PlanReason(enum.StrEnum):
    """Why; the last six say why something is missing."""

    PLACED = "placed"
    GROWN = "grown"
    RESTORED = "restored"
    RELEASED = "released"
    UNCHANGED = "unchanged"
    NO_CAPACITY = "no_capacity"
    FRAGMENTED = "fragmented"
    NO_DOMAIN = "no_domain"
    HELD_FOR_PRIORITY = "held_for_priority"
    WAITING_PREFERRED = "waiting_preferred"
    NODE_LOST = "node_lost"


@dataclass(frozen=True, slots=True)
class IdSource:
    """Ids of new groups and instances, by hashing (service, life, counter).

    `life` names the one write that would make them real, such as "<gen>.<seq as read>": another write, another life,
    so an id never comes again; planning the same write again gives the same ids.
    """

    service: ServiceName
    life: str

    def group(self, counter: int) -> str:
        """Id of the counter-th group born in this life."""
        return f"g-{short_hash(f'{self.service}|{self.life}|group|{counter}', 12)}"

    def instance(self, role: RoleName, part: str | None, counter: int) -> InstanceName:
        """Id of the counter-th instance born in this life."""
        label = role if part is None else f"{role}-{part}"
        return f"{self.service}-{label}-{short_hash(f'{self.service}|{self.life}|instance|{counter}', 12)}"


@dataclass(frozen=True, slots=True)
class Request:
    """A command to be planned.

    `arrival` orders requests that are equal in all else (the first at_ms of the command's revision);
    `waited_ms` is how long this revision has waited, for `Command.wait_ms`.
    """

    command: Command
    ids: IdSource
    arrival: int = 0
    waited_ms: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One cycle's view. `free` int16[n] and `state` int8[n] follow the topology's node order; neither is changed by a plan."""

    topology: Topology
    free: Counts
    state: Codes
    assignments: Mapping[ServiceName, tuple[Group, ...]] = field(default_factory=dict)


class Transition(msgspec.Struct, frozen=True):
    """One instance's change: `before` is null at birth."""

    instance: InstanceName
    before: InstanceState | None
    after: InstanceState
    reason: str


class Planned(msgspec.Struct, frozen=True):
    """The answer to one request.

    `assignment`: the service's whole assignment after the cycle (released instances as `stopping`, new ones as `reserved`
    with since_ms = the command's at_ms, never routable). `changed`: ids of groups with new, restored or newly draining
    instances, or another degradation; `born`: ids of new groups (also in `changed`). `taken`: GPUs taken per node by new
    instances; nothing is given back by a plan. `shortfall`: per role, only roles that lack something.
    """

    service: ServiceName
    status: PlanStatus
    reason: PlanReason
    assignment: tuple[Group, ...]
    changed: tuple[str, ...] = ()
    born: tuple[str, ...] = ()
    transitions: tuple[Transition, ...] = ()
    released: tuple[InstanceName, ...] = ()
    shortfall: Mapping[RoleName, int] = msgspec.field(default_factory=dict)
    explain: Explain = msgspec.field(default_factory=Explain)
    taken: Mapping[NodeName, int] = msgspec.field(default_factory=dict)
    dry_run: bool = False
