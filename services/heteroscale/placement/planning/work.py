"""One request while the cycle works on it: what it wants, and the draft of what was found for it.

A Draft takes its GPUs from the ledger at once (virtual allocation); it can be undone. The book is written only when the
cycle is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Level
from heteroscale.placement.planning.book import Book, GroupBook, Member
from heteroscale.placement.planning.fill import Fill
from heteroscale.placement.planning.fits import View
from heteroscale.placement.planning.ledger import Ledger
from heteroscale.placement.planning.search import Found
from heteroscale.placement.planning.site import APART, Seat, gpus_by_node
from heteroscale.placement.planning.topology import S1, WIDTH
from heteroscale.placement.planning.units import Demand, Needs


@dataclass(slots=True)
class Step:
    """Seats found for a group, and the GPUs that they take by node; `member` is the broken replica whose missing parts they are."""

    group: GroupBook
    seats: tuple[Seat, ...]
    nodes: Mapping[int, int]
    born: bool
    member: Member | None = None

    @classmethod
    def of(cls, group: GroupBook, found: Found, *, born: bool) -> Step:
        """What a search found, for a group."""
        return cls(group, tuple(found.fill.seats), found.nodes, born)


@dataclass(slots=True)
class Draft:
    """What has been found so far for one request."""

    ledger: Ledger
    steps: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Keep a step and take its GPUs."""
        self.steps.append(step)
        self.ledger.take(step.nodes)

    def back_to(self, length: int) -> None:
        """Undo all steps after the first `length`."""
        while len(self.steps) > length:
            self.ledger.give(self.steps.pop().nodes)

    def redo(self) -> None:
        """Take the GPUs of all steps again, after `release`."""
        for step in self.steps:
            self.ledger.take(step.nodes)

    def release(self) -> None:
        """Give the GPUs of all steps back but keep the steps."""
        for step in self.steps:
            self.ledger.give(step.nodes)

    def nodes(self) -> dict[int, int]:
        """GPUs taken by node."""
        if len(self.steps) == 1:
            return dict(self.steps[0].nodes)
        return gpus_by_node(seat for step in self.steps for seat in step.seats)


@dataclass(slots=True)
class Work:
    """One request in a cycle."""

    book: Book
    demand: Demand
    view: View
    draft: Draft
    needed: Needs
    rest: Needs = field(default_factory=dict)
    waiting: bool = False

    @property
    def blank(self) -> Fill:
        """An empty fill under this request's view."""
        return Fill(view=self.view, demand=self.demand, marks=self._marks() if self.demand.spread in APART else {})

    def begun(self, group: GroupBook) -> list[int]:
        """The s1 that a group lies in, drafted seats included."""
        of = self.view.ledger.topology.levels[S1].of
        drafted = {int(of[node]) for step in self.draft.steps if step.group is group for node in step.nodes}
        return sorted(drafted.union(self.book.begun(group)))

    def home(self, group: GroupBook, level: Level) -> tuple[Level, int] | None:
        """The domain in which a group may grow under a ceiling."""
        home = self.book.home(group, level)
        if home is not None:
            return home
        nodes = [node for step in self.draft.steps if step.group is group for node in step.nodes]
        span = self.view.ledger.topology.spanned(nodes)
        if span is None or WIDTH[span[0]] >= WIDTH[level]:
            return span
        return level, int(self.view.ledger.topology.levels[level].of[nodes[0]])

    def groups(self) -> list[GroupBook]:
        """Groups that may grow: those with something alive, and those drafted in this cycle."""
        if not self.book.groups and not self.draft.steps:
            return []
        alive = [group for group in self.book.groups if any(member.existing for member in group.members)]
        for step in self.draft.steps:
            if step.born and step.group not in alive:
                alive.append(step.group)
        return alive

    def count(self, group: GroupBook, role: RoleName) -> int:
        """Serving replicas of a role in a group, drafted ones included."""
        drafted = sum(seat.role == role for step in self.draft.steps if step.group is group for seat in step.seats)
        return group.count(role) + drafted

    def drafted(self) -> Needs:
        """Replicas placed so far."""
        found: Needs = {}
        for step in self.draft.steps:
            for seat in step.seats:
                found[seat.role] = found.get(seat.role, 0) + 1
        return found

    @property
    def units(self) -> int:
        """Whole units wanted."""
        return self.demand.units_in(self.rest)

    @property
    def divisible(self) -> bool:
        """Whether a part of it may be placed before the rest: new, in several units, and not waiting for a place of its own."""
        request = self.book.request
        settles = request.waited_ms >= request.command.wait_ms
        return not self.book.groups and not self.demand.whole and not request.command.dry_run and settles and self.units > 1

    def _marks(self) -> dict[int, Sequence[RoleName]]:
        marks: dict[int, list[RoleName]] = {}
        index = self.book.topology.index
        for group in self.book.groups:
            for instance in group.live():
                for node in instance.nodes:
                    if node in index:
                        marks.setdefault(index[node], []).append(instance.role)
        return dict(marks)
