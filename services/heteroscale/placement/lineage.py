"""Who stands in for whom, told from a service's records as they came: a Placement says who was overdue and who was born, no more. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from heteroscale.contracts.names import InstanceName, RoleName, ServiceName
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.placement.life import Why

Kind = tuple[ServiceName, RoleName, str | None]


@dataclass(slots=True)
class Lineage:
    """`overdue`: instances that were told to stop because they did not start in time. `replaces`: whom an instance stands in for.

    Of several overdue ones of a role, which of several births stands in for which is a matter of order, here that of names.
    """

    overdue: set[InstanceName] = field(default_factory=set)
    replaces: dict[InstanceName, InstanceName] = field(default_factory=dict)
    _newest: dict[ServiceName, tuple[int, int]] = field(default_factory=dict)
    _waiting: dict[Kind, list[InstanceName]] = field(default_factory=dict)

    def fold(self, placement: Placement) -> None:
        """The next record; one that says nothing new, or answers a dry run, changes nothing."""
        order = (placement.gen, placement.seq or 0)
        if placement.seq is None or order <= self._newest.get(placement.service, (-1, -1)):
            return
        self._newest[placement.service] = order
        listed = {one.id: one for group in placement.groups for one in group.instances}
        stopping = {name for name, one in listed.items() if one.state is InstanceState.STOPPING}
        for kind, names in self._waiting.items():
            if kind[0] == placement.service:
                names[:] = [name for name in names if name in stopping]
        for change in sorted(placement.changes, key=lambda one: one.instance):
            one = listed.get(change.instance)
            if one is not None and change.reason == Why.OVERDUE:
                self.overdue.add(one.id)
                self._waiting.setdefault((placement.service, one.role, one.part), []).append(one.id)
        for change in sorted(placement.changes, key=lambda one: one.instance):
            one = listed.get(change.instance)
            if one is not None and change.from_ is None and change.reason != Why.ADOPTED:
                waiting = self._waiting.get((placement.service, one.role, one.part))
                if waiting:
                    self.replaces[one.id] = waiting.pop(0)


def of(history: Iterable[Placement]) -> Lineage:
    """The lineage that these records tell, in their order."""
    found = Lineage()
    for placement in history:
        found.fold(placement)
    return found
