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

from heteroscale.contracts.names import ServiceName
from heteroscale.placement.planning import answer, cycle, placing, victims
from heteroscale.placement.planning.book import Book
from heteroscale.placement.planning.model import Planned, Request, Snapshot
from heteroscale.placement.planning.placing import Draft, Work
from heteroscale.placement.planning.units import Demand, Needs

REPAIRS_MAX = 4
"""Placements of the cycle that are moved aside, in trial, for one failed request."""

REPAIRS_CYCLE_MAX = 32
"""The same for a whole cycle, so that a full fleet costs no more than an empty one."""


REORDERED_MAX = 32
"""Cycles with more requests than this are not planned in another order."""

REORDERS_MAX = 2
"""Other orders tried for one cycle."""

SMALL_CYCLE = 8
"""Up to so many requests, every service is tried as the first among its equals."""


def plan(snapshot: Snapshot, requests: Sequence[Request]) -> list[Planned]:
    """Plan all requests on one snapshot; the answers come in the order of the requests. Dry runs are planned last and hold nothing."""
    run = _Run.of(snapshot, requests, frozenset(), explained=True)
    answers, best = run.planned(), run.worth()
    chosen: _Run | None = None
    seen = {tuple(run.order)}
    for first in _other_orders(answers):
        again = _Run.start(snapshot, requests, first)
        if tuple(again.order) in seen:
            continue
        seen.add(tuple(again.order))
        again.place(explained=False)
        if again.worth() > best:
            chosen, best = again, again.worth()
    return answers if chosen is None else _Run.of(snapshot, requests, chosen.first, explained=True).planned()


def _other_orders(answers: Sequence[Planned]) -> list[frozenset[ServiceName]]:
    """Services to put first among their equals, where something failed and something else took GPUs."""
    failed = sorted({one.service for one in answers if one.shortfall and not one.dry_run})
    if not failed:
        return []
    real = sorted({one.service for one in answers if not one.dry_run})
    took = any(one.taken and not one.dry_run for one in answers)
    if not took or not 1 < len(real) <= REORDERED_MAX:
        return []
    tries = [frozenset(failed), *(frozenset({service}) for service in [*failed, *real])]
    distinct = list(dict.fromkeys(tries))
    return distinct if len(real) <= SMALL_CYCLE else distinct[:REORDERS_MAX]


@dataclass(slots=True)
class _Run:
    """The cycle in one order of its requests; the services in `first` come before others of their priority."""

    snapshot: Snapshot
    requests: Sequence[Request]
    first: frozenset[ServiceName]
    state: cycle.Cycle
    works: dict[int, Work]
    order: list[int]
    answers: dict[int, answer.Answer] = field(default_factory=dict)

    @classmethod
    def start(cls, snapshot: Snapshot, requests: Sequence[Request], first: frozenset[ServiceName]) -> _Run:
        """Phases 1 to 3."""
        state = cycle.Cycle.start(snapshot, requests)
        types = {name: code for code, name in enumerate(snapshot.topology.types)}
        works = {at: _open(state, request, types) for at, request in enumerate(requests) if request.command.affinity is not None}
        order = sorted(works, key=lambda at: cycle.order_key(state, works[at], first))
        return cls(snapshot, requests, first, state, works, order)

    @classmethod
    def of(cls, snapshot: Snapshot, requests: Sequence[Request], first: frozenset[ServiceName], *, explained: bool) -> _Run:
        """Phases 1 to 7."""
        run = cls.start(snapshot, requests, first)
        run.place(explained=explained)
        return run

    def place(self, *, explained: bool) -> None:
        """Phases 4 to 7; a run that is only to be compared needs no explanations."""
        state, requests = self.state, self.requests
        state.explained = explained
        repairs = REPAIRS_CYCLE_MAX
        for at in [at for at in self.order if not requests[at].command.dry_run]:
            work = self.works[at]
            work.view = state.view_for(requests[at].command.priority)
            found = _place(state, work)
            if found.left and answer.repairable(found.reason) and repairs > 0:
                repairs -= _repair(state, work, found, self.answers, self.works)
                found = self.answers.pop(-1, found)
            self.answers[at] = found
            state.settle(at, work)
            if found.left and found.place is not None:
                state.hold_for(work, found.left, found.place)
        for at in [at for at in self.order if requests[at].command.dry_run and explained]:
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


def _open(state: cycle.Cycle, request: Request, types: dict[str, int]) -> Work:
    """Phases 1 and 2 for one request."""
    book = Book.open(state.snapshot, request)
    demand = Demand.of(request.command, types, state.memos)
    roles = sorted(request.command.roles.items())
    needed = {role: wanted.replicas - book.existing(role) for role, wanted in roles if wanted.replicas > book.existing(role)}
    if book.groups:
        victims.restore(book, demand)
        victims.scale_in(book, demand)
    rest = {role: wanted.replicas - book.serving(role) for role, wanted in roles if wanted.replicas > book.serving(role)}
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
