"""From a placed (or not placed) request to its answer: status, reason, explanation, and the new assignment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from heteroscale.contracts.placements import DegradedReason, Domain, Explain, Group, InstanceState, PlacedInstance
from heteroscale.contracts.spec import AffinityMode
from heteroscale.placement.planning import explain as explaining
from heteroscale.placement.planning import placing
from heteroscale.placement.planning.book import GroupBook
from heteroscale.placement.planning.cycle import Cycle
from heteroscale.placement.planning.explain import Place
from heteroscale.placement.planning.fill import Fill
from heteroscale.placement.planning.fits import View
from heteroscale.placement.planning.model import Planned, PlanReason, PlanStatus, Request, Snapshot
from heteroscale.placement.planning.topology import POOLS, WIDTH, Topology
from heteroscale.placement.planning.units import Needs
from heteroscale.placement.planning.work import Work

_REPAIRABLE = (PlanReason.FRAGMENTED, PlanReason.NO_DOMAIN)
_STOPPING = InstanceState.STOPPING


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: asked and left per role, why, and the domain that explains it."""

    asked: Needs
    left: Needs
    reason: PlanReason
    place: Place | None
    explain: Explain


def repairable(reason: PlanReason) -> bool:
    """Whether the GPUs are there and only lie wrongly."""
    return reason in _REPAIRABLE


def explain(state: Cycle, work: Work, asked: Needs, left: Needs) -> Answer:
    """The answer to a request, judged on what its turn found and on what is left now."""
    if not left:
        reason = _success(work)
        place = _placed_in(work)
    else:
        reason = _failure(state, work, left)
        place = _nearest(state, work, asked, left)
    if not state.explained:
        return Answer(asked, left, reason, place, Explain())
    needed = {role: work.needed.get(role, 0) for role in work.demand.shapes}
    if place is None:
        nothing = dict.fromkeys(work.demand.shapes, 0)
        command = work.book.request.command
        unknown = explaining.unknown_types(state.ledger.topology, command, left)
        text = explaining.text_of(reason, left, [], command.wait_ms, unknown)
        return Answer(asked, left, reason, None, Explain(needed=needed, available=nothing, text=text))
    taken = work.draft.nodes()
    available = explaining.available(Fill(view=View(state.ledger, {}), demand=work.demand), place, taken)
    blocked = state.blockers(work, left, place) if left else []
    message = Explain(
        best_domain=state.ledger.topology.domain(*place),
        needed=needed,
        available=available,
        blocked_by=blocked,
        text=explaining.text_of(reason, left, blocked, work.book.request.command.wait_ms),
    )
    return Answer(asked, left, reason, place, message)


def planned(work: Work, found: Answer) -> Planned:
    """Phase 8: write the draft into the book and state the plan."""
    book = work.book
    born: list[str] = []
    homes: dict[int, GroupBook] = {}
    for step in work.draft.steps:
        group = step.group
        if step.born:
            group = homes.setdefault(id(step.group), book.open_group())
            born.append(group.id)
        group = homes.get(id(step.group), group)
        book.seat(group, step.seats, step.member)
    records = [(group, _record(work, group, found.left)) for group in book.groups]
    changed = [group.id for group, record in records if group.id in book.touched or group.debt or _differs(group.record, record)]
    transitions = [book.transitions[name] for name in sorted(book.transitions)]
    return Planned(
        service=book.request.command.service,
        status=_status(work, found),
        reason=found.reason,
        assignment=tuple([record for _, record in records]),
        changed=tuple(changed),
        born=tuple(born),
        transitions=tuple(transitions),
        released=tuple([transition.instance for transition in transitions if transition.after is _STOPPING]),
        shortfall=found.left,
        explain=found.explain,
        taken=dict(sorted([(book.topology.names[node], gpus) for node, gpus in work.draft.nodes().items()])),
        dry_run=book.request.command.dry_run,
    )


def left_alone(snapshot: Snapshot, request: Request) -> Planned:
    """The answer to a command without placement."""
    command = request.command
    return Planned(
        service=command.service,
        status=PlanStatus.UNCHANGED,
        reason=PlanReason.UNCHANGED,
        assignment=snapshot.assignments.get(command.service, ()),
        explain=Explain(text="placement: none"),
        dry_run=command.dry_run,
    )


def _success(work: Work) -> PlanReason:
    if any(step.born for step in work.draft.steps):
        return PlanReason.PLACED
    if work.draft.steps:
        return PlanReason.GROWN
    after = {transition.after for transition in work.book.transitions.values()}
    if InstanceState.READY in after:
        return PlanReason.RESTORED
    if after & {InstanceState.STOPPING, InstanceState.DRAINING}:
        return PlanReason.RELEASED
    return PlanReason.UNCHANGED


def _status(work: Work, found: Answer) -> PlanStatus:
    if found.left:
        restored = any(transition.after is InstanceState.READY for transition in work.book.transitions.values())
        return PlanStatus.PARTIAL if work.draft.steps or restored else PlanStatus.UNPLACED
    return PlanStatus.UNCHANGED if found.reason is PlanReason.UNCHANGED else PlanStatus.PLACED


def _failure(state: Cycle, work: Work, left: Needs) -> PlanReason:
    """Why something is missing: its own wait, what is held back, its lost nodes, or the fleet."""
    if work.waiting:
        return PlanReason.WAITING_PREFERRED
    debts: Needs = {}
    for group in work.book.groups:
        for role, count in group.debt.items():
            debts[role] = debts.get(role, 0) + count
    if work.view.banned and _fits_without_holds(state, work, left):
        return PlanReason.HELD_FOR_PRIORITY
    if debts == left:
        return PlanReason.NODE_LOST
    homes = _homes(work)
    blank = Fill(view=View(state.ledger, {}), demand=work.demand)
    opens = work.demand.opens(left)
    return explaining.missing_reason(blank, left, None if opens else homes, work.demand.widest)


def _fits_without_holds(state: Cycle, work: Work, left: Needs) -> bool:
    length, view, rest = len(work.draft.steps), work.view, work.rest
    debts = {id(group): dict(group.debt) for group in work.book.groups}
    work.view, work.rest = View(state.ledger, {}), dict(left)
    more = placing.try_levels(work, dict(left))
    work.draft.back_to(length)
    work.view, work.rest = view, rest
    for group in work.book.groups:
        group.debt = debts[id(group)]
    return more != left


def _homes(work: Work) -> list[Place]:
    found = [work.home(group, work.demand.widest) for group in work.groups()]
    return [home for home in found if home is not None]


def _placed_in(work: Work) -> Place | None:
    """The narrowest domain of what was placed first, new groups before others."""
    steps = sorted(work.draft.steps, key=lambda step: not step.born)
    return work.view.ledger.topology.spanned(steps[0].nodes) if steps else None


def _nearest(state: Cycle, work: Work, asked: Needs, left: Needs) -> Place | None:
    """The domain that came nearest, as the request's turn found it; for what only a group can take, its group's domain."""
    debtors = [group for group in work.book.groups if group.debt]
    if debtors:
        home = work.home(debtors[0], work.demand.level)
        if home is not None:
            return home
    homes = [home for group in work.groups() if (home := work.home(group, work.demand.level)) is not None]
    work.draft.release()
    blank = Fill(view=View(work.view.ledger, {}), demand=work.demand)
    needs = asked if work.demand.opens(asked) else left
    best = explaining.best_domain(blank, needs, work.demand.level, state.all_freed())
    if homes and not work.demand.opens(left) and best not in homes:
        best = homes[0]
    work.draft.redo()
    return best


def _record(work: Work, group: GroupBook, left: Needs) -> Group:
    """The group as it is now: narrowest domain, worst pool, whether it is degraded."""
    topology = work.book.topology
    instances = [instance for member in group.members for instance in member.instances]
    live = _nodes_of(topology, group.live())
    span = topology.spanned(live) if all(member.existing for member in group.members) else _span(work, instances, live)
    if live:
        domain = topology.domain(*span) if span is not None else Domain()
        lists = topology.lists
        pool = POOLS[max([lists.pool[lists.s1[node]] for node in live])]
    else:
        domain = group.record.domain if group.record is not None else Domain()
        pool = group.record.pool if group.record is not None else POOLS[0]
    reason = _degraded(work, group, span, left)
    unknown = group.record is not None and group.record.degraded and group.record.degraded_reason is None
    instances.sort(key=lambda instance: (instance.role, instance.replica or 0, instance.part or "", instance.id))
    return Group(
        id=group.id,
        domain=domain,
        pool=pool,
        degraded=reason is not None or unknown,
        degraded_reason=reason,
        instances=instances,
    )


def _span(work: Work, instances: list[PlacedInstance], live: list[int]) -> Place | None:
    """The narrowest domain of what is listed; of what lives alone, if the dead would make it wider than the ceiling."""
    topology = work.book.topology
    span = topology.spanned(live)
    listed = _nodes_of(topology, (one for one in instances if one.state is not InstanceState.STOPPING))
    if listed == live:
        return span
    whole = topology.spanned(listed)
    narrow = whole is not None and WIDTH[whole[0]] <= WIDTH[work.demand.level]
    return whole if narrow else span


def _nodes_of(topology: Topology, instances: Iterable[PlacedInstance]) -> list[int]:
    """The nodes that the fleet has of those the instances hold."""
    index = topology.index
    return [index[node] for instance in instances for node in instance.nodes if node in index]


def _degraded(work: Work, group: GroupBook, span: Place | None, left: Needs) -> DegradedReason | None:
    before = group.record.degraded_reason if group.record is not None else None
    if group.debt or (before is DegradedReason.NODE_LOST and left):
        return DegradedReason.NODE_LOST
    wide = span is None or WIDTH[span[0]] > WIDTH[work.demand.level]
    if not wide or not any(group.live()):
        return None
    affinity = work.book.request.command.affinity
    preferred = affinity is not None and affinity.mode is AffinityMode.PREFERRED
    return DegradedReason.WIDER_THAN_PREFERRED if preferred and before is not DegradedReason.MOVED else DegradedReason.MOVED


def _differs(before: Group | None, after: Group) -> bool:
    if before is None:
        return True
    return (before.degraded, before.degraded_reason) != (after.degraded, after.degraded_reason)
