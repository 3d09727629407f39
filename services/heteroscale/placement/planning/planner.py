"""One scheduling cycle: a pure function from a snapshot and the requests to one plan a request.

The phases, in the order in which they run:

1. restore what drains where more is wanted in service
2. scale in: victims, which free nothing within the cycle
3. order the requests: priority, fewest feasible domains, size, arrival
4. place each: replacements, growth, new groups, leftovers
5. virtual allocation: what is placed is gone for the next; what is queued holds back its best domain from lower priorities
6. one repair pass for a request that failed though the GPUs are there: an equal placement moves aside, or the cycle is
   planned again with what failed first among its equals, and the better of the two stands
7. dry runs, each on what the real requests left, holding nothing
8. write: new assignment, transitions, explanation
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from heteroscale.contracts.names import ServiceName
from heteroscale.placement.planning import answer, cycle, orders, placing, victims
from heteroscale.placement.planning.book import Book
from heteroscale.placement.planning.model import Planned, Request, Snapshot
from heteroscale.placement.planning.orders import Order
from heteroscale.placement.planning.units import Demand, Needs, subtract
from heteroscale.placement.planning.work import Draft, Work

Turn: TypeAlias = tuple[int, int | None]
"""A request, by number, and how many units it takes now; null: all that it still lacks."""

REPAIRS_MAX = 4
"""Placements of the cycle that are moved aside, in trial, for one failed request."""

REPAIRS_CYCLE_MAX = 32
"""The same for a whole cycle, so that a full fleet costs no more than an empty one."""


def plan(snapshot: Snapshot, requests: Sequence[Request]) -> list[Planned]:
    """Plan all requests on one snapshot; the answers come in the order of the requests. Dry runs are planned last and hold nothing."""
    run = _Run.start(snapshot, requests, Order())
    run.place(explained=True)
    answers, best = run.planned(), run.worth()
    chosen: Order | None = None
    seen = {run.sequence}
    for order in orders.others(answers, run.divisible):
        again = _Run.start(snapshot, requests, order)
        if again.sequence in seen:
            continue
        seen.add(again.sequence)
        again.place(explained=False)
        if again.worth() > best:
            chosen, best = order, again.worth()
    if chosen is None:
        return answers
    again = _Run.start(snapshot, requests, chosen)
    again.place(explained=True)
    return again.planned()


@dataclass(slots=True)
class _Run:
    """The cycle in one order of its requests. `divisible`: services that may come in parts, and how many units they want."""

    snapshot: Snapshot
    requests: Sequence[Request]
    state: cycle.Cycle
    works: dict[int, Work]
    sequence: tuple[Turn, ...]
    divisible: dict[ServiceName, int]
    answers: dict[int, answer.Answer] = field(default_factory=dict)

    @classmethod
    def start(cls, snapshot: Snapshot, requests: Sequence[Request], order: Order) -> _Run:
        """Phases 1 to 3."""
        state = cycle.Cycle.start(snapshot, requests)
        types = {name: code for code, name in enumerate(snapshot.topology.types)}
        works = {at: _open(state, request, types) for at, request in enumerate(requests) if request.command.affinity is not None}
        sequence = sorted(works, key=lambda at: cycle.order_key(state, works[at], order.first))
        divisible = {work.book.request.command.service: work.units for work in works.values() if work.divisible}
        return cls(snapshot, requests, state, works, _turns(works, sequence, order), divisible)

    def place(self, *, explained: bool) -> None:
        """Phases 4 to 7; a run that is only to be compared needs no explanations."""
        state, requests = self.state, self.requests
        state.explained = explained
        repairs = REPAIRS_CYCLE_MAX
        for at, units in self.sequence:
            work, command = self.works[at], requests[at].command
            if command.dry_run:
                continue
            work.view = state.view_for(command.priority)
            if units is not None:
                placing.place_early(work, units)
                continue
            found = _place(state, work)
            if found.left and answer.repairable(found.reason) and repairs > 0:
                repairs -= _repair(state, work, found, self.answers, self.works)
                found = self.answers.pop(-1, found)
            self.answers[at] = found
            state.settle(at, work)
            if found.left and found.place is not None:
                state.hold_for(work, found.left, found.place)
        for at in [at for at, _ in self.sequence if requests[at].command.dry_run and explained]:
            self.works[at].view = state.view_for(requests[at].command.priority)
            self.answers[at] = _place(state, self.works[at])
            self.works[at].draft.release()

    def worth(self) -> list[int]:
        """GPUs newly placed, by priority, the highest first."""
        worth = {request.command.priority: 0 for request in self.requests}
        for at, work in self.works.items():
            command = self.requests[at].command
            if not command.dry_run:
                worth[command.priority] += sum(sum(step.nodes.values()) for step in work.draft.steps)
        return [gpus for _, gpus in sorted(worth.items(), reverse=True)]

    def planned(self) -> list[Planned]:
        """Phase 8."""
        return [
            answer.planned(self.works[at], self.answers[at]) if at in self.works else answer.left_alone(self.snapshot, request)
            for at, request in enumerate(self.requests)
        ]


def _turns(works: dict[int, Work], sequence: list[int], order: Order) -> tuple[Turn, ...]:
    """Who comes when: what comes early takes its part, and the rest after the last of its priority."""
    turns: list[Turn] = []
    late: Turn | None = None
    for at in sequence:
        command = works[at].book.request.command
        if late is not None and command.priority != works[late[0]].book.request.command.priority:
            turns.append(late)
            late = None
        if command.service == order.early and not command.dry_run:
            turns.append((at, order.units))
            late = (at, None)
        else:
            turns.append((at, None))
    return (*turns, late) if late is not None else tuple(turns)


def _open(state: cycle.Cycle, request: Request, types: dict[str, int]) -> Work:
    """Phases 1 and 2 for one request."""
    book = Book.open(state.snapshot, request)
    demand = Demand.of(request.command, types, state.snapshot.topology.memos)
    wanted = {role: one.replicas for role, one in sorted(request.command.roles.items())}
    needed = rest = {role: count for role, count in wanted.items() if count > 0}
    if book.groups:
        needed = subtract(wanted, {role: book.existing(role) for role in wanted})
        victims.restore(book, demand)
        victims.scale_in(book, demand)
        rest = subtract(wanted, {role: book.serving(role) for role in wanted})
    return Work(
        book=book, demand=demand, view=state.view_for(request.command.priority), draft=Draft(state.ledger), needed=needed, rest=rest
    )


def _place(state: cycle.Cycle, work: Work) -> answer.Answer:
    """Phase 4 for one request, explained."""
    asked = dict(work.rest)
    return answer.explain(state, work, asked, _seat(work))


def _seat(work: Work) -> Needs:
    """Phase 4 for one request; what could not be placed."""
    return placing.place(work) if work.rest or work.book.groups else {}


def _repair(state: cycle.Cycle, work: Work, found: answer.Answer, answers: dict[int, answer.Answer], works: dict[int, Work]) -> int:
    """Phase 6: move one placement of equal priority aside, place the failed request, place the other again. How many were tried.

    Kept only if both are whole; the better answer then stands under -1 and the other's is replaced.
    """
    priority = work.book.request.command.priority
    others = [at for at in answers if works[at].book.request.command.priority == priority and _movable(works[at], answers[at])]
    for tried, at in enumerate(others[-REPAIRS_MAX:], start=1):
        other = works[at]
        kept, own = list(other.draft.steps), list(work.draft.steps)
        other.draft.back_to(0)
        work.draft.back_to(0)
        work.rest = dict(found.asked)
        if not _seat(work):
            again, asked = answer.explain(state, work, dict(found.asked), {}), dict(other.rest)
            if not _seat(other):
                answers[at], answers[-1] = answer.explain(state, other, asked, {}), again
                state.settle(at, other)
                return tried
        other.draft.back_to(0)
        work.draft.back_to(0)
        for step in kept:
            other.draft.add(step)
        for step in own:
            work.draft.add(step)
    return len(others[-REPAIRS_MAX:])


def _movable(work: Work, found: answer.Answer) -> bool:
    """Only what was wholly placed in one new group is moved: nothing of it depends on where it lies."""
    return not found.left and len(work.draft.steps) == 1 and work.draft.steps[0].born
