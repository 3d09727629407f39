"""Judging what really happened: ownership intervals of GPUs from applied gangs, in the order in which they became true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from heteroscale.contracts import codec
from heteroscale.contracts.placements import Group, InstanceState, Placement
from heteroscale.placement.inventory.gang import Gang, Outcome, Verdict
from heteroscale.placement.inventory.protocol import Inventory

PAIR = frozenset({"prefill", "decode"})


class Recorder:
    """An inventory that remembers what it was asked and what it answered; all else is handed on.

    `sent`: every gang, with the highest rev answered before it was sent.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self.answers: list[tuple[Gang, Outcome]] = []
        self.sent: list[tuple[Gang, int]] = []
        self._rev = 0

    async def apply(self, gangs: Sequence[Gang]) -> list[Outcome]:
        """As the inventory."""
        self.sent += [(gang, self._rev) for gang in gangs]
        outcomes = await self._inventory.apply(gangs)
        self.answers += zip(gangs, outcomes, strict=True)
        self._rev = max([self._rev, *(outcome.rev for outcome in outcomes)])
        return outcomes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inventory, name)


def of_gangs(answers: Iterable[tuple[Gang, Outcome]], gpus: Mapping[str, int], sent: Iterable[tuple[Gang, int]] = ()) -> list[str]:
    """What is wrong with these answers: GPUs owned twice, a rev that repeats, one gang with two answers.

    Reservations are placed on the line of `rev`; at no point may a node's owners hold more than it has. Only definite ownership
    counts: a gang of `sent` that nobody ever heard of may have given back what it frees as soon as it was sent.
    """
    wrong: list[str] = []
    by_rev: dict[int, Gang] = {}
    answered: dict[str, int] = {}
    refused: set[str] = set()
    for gang, outcome in answers:
        if outcome.verdict is not Verdict.APPLIED:
            refused.add(gang.id)
            continue
        if answered.setdefault(gang.id, outcome.rev) != outcome.rev:
            wrong.append(f"gang {gang.id[:8]} was applied at {answered[gang.id]} and at {outcome.rev}")
        if by_rev.setdefault(outcome.rev, gang).id != gang.id:
            wrong.append(f"rev {outcome.rev} was given twice")
    unheard = {gang.id: (rev, gang) for gang, rev in sent if gang.id not in refused | answered.keys()}
    line = [(rev, 1, gang) for rev, gang in by_rev.items()] + [(rev + 1, 0, gang) for rev, gang in unheard.values()]
    held: dict[str, int] = {}
    for rev, known, gang in sorted(line, key=lambda one: one[:2]):
        for node, count in gang.frees.items():
            held[node] = held.get(node, 0) - count
        for node, count in [*gang.takes.items(), *gang.adopts.items()] if known else []:
            held[node] = held.get(node, 0) + count
            if held[node] > gpus[node]:
                wrong.append(f"{node} gives {held[node]} of {gpus[node]} GPUs at rev {rev}")
    return wrong


def of_placements(payloads: Iterable[bytes], gpus: Mapping[str, int], roles: frozenset[str] = PAIR) -> list[str]:
    """What is wrong with the Placements on the log: two contents for one (gen, seq), a group born without one of `roles`, GPUs given twice.

    For GPUs the newest Placement of every service counts; failed instances may hold nothing any more and are left out.
    """
    wrong: list[str] = []
    seen: dict[tuple[str, int, int], bytes] = {}
    for payload in payloads:
        placement = codec.decode(Placement, payload)
        if placement.seq is None:
            continue
        order = (placement.service, placement.gen, placement.seq)
        if seen.setdefault(order, payload) != payload:
            wrong.append(f"{order} was written with two contents")
    line = [codec.decode(Placement, payload) for _, payload in sorted(seen.items())]
    return wrong + _half_born(line, roles) + _overlaps({placement.service: placement for placement in line}, gpus)


def _half_born(line: Sequence[Placement], roles: frozenset[str]) -> list[str]:
    """Groups that lack a role in the first record that has them."""
    first: dict[tuple[str, str], Group] = {}
    for placement in line:
        for group in placement.groups:
            first.setdefault((placement.service, group.id), group)
    half = [key for key, group in first.items() if not roles <= {one.role for one in group.instances}]
    return [f"{group} of {service} was born without a role" for service, group in half]


def _overlaps(newest: Mapping[str, Placement], gpus: Mapping[str, int]) -> list[str]:
    held: dict[str, int] = {}
    for placement in newest.values():
        for group in placement.groups:
            for one in group.instances:
                if one.state is not InstanceState.FAILED:
                    for node, count in one.nodes.items():
                        held[node] = held.get(node, 0) + count
    return [f"{node} gives {count} of {gpus[node]} GPUs" for node, count in sorted(held.items()) if count > gpus[node]]
