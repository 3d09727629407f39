"""Why a service last moved or held, in a sentence, and the next thing that would change it, with its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from heteroscale.contracts.decision_state import DecisionState, LawState, TrackState
from heteroscale.contracts.decisions import Action, Decision, Reason
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.units import instant_text
from heteroscale.decision import report
from heteroscale.decision.law import schedule
from heteroscale.decision.law.figures import plain
from heteroscale.decision.law.tracks import Track, tracks_of
from heteroscale.decision.law.verdict import REASONS


class Case(msgspec.Struct, frozen=True):
    """A decision with the state after it, for the track that spoke."""

    spec: ServiceSpec
    decision: Decision
    law: LawState
    track: Track
    state: TrackState

    @property
    def n(self) -> int:
        """The lead's count after the decision."""
        return self.decision.after[self.track.lead].replicas


def undecided(spec: ServiceSpec) -> str:
    """What is said of a service before its first decision."""
    first = f"the first window closes {spec.window.size} after its telemetry begins"
    return f"{spec.service}: nothing was decided yet; {first} (heteroscale doctor says whether it has)"


def explain(spec: ServiceSpec, record: DecisionState) -> str:
    """One sentence on the last decision, one on what comes next. Nothing decided yet is said so."""
    decision = record.decision
    if decision is None:
        return undecided(spec)
    track = _speaker(spec, decision)
    case = Case(spec, decision, record.law, track, record.law.tracks.get(track.lead, TrackState()))
    sentences = [f"{record.service} {_what(decision)}: {REASONS[decision.reason].meaning}{_detail(decision)}.", f"Next: {_next(case)}."]
    sentences.extend(f"In shadow mode; {text}." for text in report.dry_run_text(record.law) if decision.mode.value == "shadow")
    return " ".join(sentences)


def _speaker(spec: ServiceSpec, decision: Decision) -> Track:
    """The first track whose lead moved, else the ratio's."""
    tracks = tracks_of(spec)
    for track in tracks:
        before = decision.before.get(track.lead)
        if before is not None and decision.after[track.lead].replicas != before.replicas:
            return track
    return tracks[0]


def _what(decision: Decision) -> str:
    counts = ", ".join(f"{count.replicas} {role}" for role, count in sorted(decision.after.items()))
    at = instant_text(decision.at_ms)
    if decision.action is Action.HOLD:
        return f"holds at {counts} ({decision.reason.value}, {at})"
    verbs = {
        Action.SCALE_OUT: "scaled out to",
        Action.SCALE_IN: "scaled in to",
        Action.RESTORE: "restored to",
        Action.FINALIZE: "finalized at",
    }
    return f"{verbs[decision.action]} {counts} ({decision.reason.value}, {at})"


def _detail(decision: Decision) -> str:
    told = next((stage.detail for stage in decision.stages if stage.reason is decision.reason and stage.detail), "")
    return f" ({told})" if told else ""


def _next(case: Case) -> str:
    if case.decision.action is Action.HOLD:
        say = _AFTER_HOLD.get(case.decision.reason)
        if say is not None:
            return say(case)
    if case.state.soft is not None:
        return _observing(case)
    return _band(case)


def _band(case: Case) -> str:
    """Where the signals would move the count."""
    behavior, n, track = case.spec.behavior, case.n, case.track
    if not track.signals:
        return "a schedule or the bounds move it; it has no signal"
    signal = track.signals[0]
    target = signal.target or 1.0
    role = signal.role or track.lead
    count = track.counts(n)[role]
    high = count * target * (1 + behavior.scale_out.tolerance.fraction)
    low = count * target * (1 - behavior.scale_in.tolerance.fraction)
    return f"{signal.metric.value} of {role} above {plain(high)} scales out, below {plain(low)} in (at weight 1)"


def _stabilizing(case: Case) -> str:
    wish = _wished(case)
    outward = wish > case.n
    behavior = case.spec.behavior
    window_ms = (behavior.scale_out if outward else behavior.scale_in).stabilization.ms
    against = [past.at_ms for past in case.state.recommendations if (past.n <= case.n if outward else past.n >= case.n)]
    return f"{_way(case)} waits for stabilisation until {instant_text(max(against, default=case.decision.at_ms) + window_ms)}"


def _cooldown(case: Case) -> str:
    behavior, state = case.spec.behavior, case.state
    ends = [] if state.last_out_ms is None else [state.last_out_ms + behavior.scale_out.cooldown.ms]
    if _wished(case) < case.n and state.last_in_ms is not None:
        ends.append(state.last_in_ms + behavior.scale_in.cooldown.ms)
    return f"{_way(case)} waits for cooldown until {instant_text(max(ends, default=case.decision.at_ms))}"


def _rate(case: Case) -> str:
    behavior = case.spec.behavior
    policies = (behavior.scale_out if _wished(case) > case.n else behavior.scale_in).policies
    now_ms = case.decision.at_ms
    ends = [
        change.at_ms + policy.period.ms for policy in policies for change in case.state.changes if change.at_ms + policy.period.ms > now_ms
    ]
    return f"{_way(case)} may go on at {instant_text(min(ends))}" if ends else "the policies of this direction are disabled"


def _observing(case: Case) -> str:
    soft, phase = case.spec.behavior.scale_in.soft, case.state.soft
    if soft is None or phase is None or phase.observe_from_ms is None:
        return "observing begins once placement lists what drains"
    end_ms = phase.observe_from_ms + soft.observe.ms + phase.unjudged_ms
    return f"what drains is let go at {instant_text(end_ms)}, unless demand or latency asks for it"


def _cold(case: Case) -> str:
    return f"judging begins at {instant_text(case.law.cold_until_ms or case.decision.at_ms)}"


def _missing(case: Case) -> str:
    since_ms, missing = case.state.missing_since_ms, case.spec.missing_data
    if since_ms is None:
        return "scale-in is possible again once coverage is back"
    return f"the fallback ({missing.fallback}) applies from {instant_text(since_ms + missing.escalate_after.ms)}, unless something is heard"


def _guard_waits(case: Case) -> str:
    step = case.state.guard_step
    if step is None:
        return "the next step is possible once what is pending serves"
    if step.served_at_ms is not None:
        return f"the next step is possible at {instant_text(step.served_at_ms + case.spec.window.size.ms)}"
    return f"the next step waits until {step.n} {case.track.lead} serve, at most until {_timeout(case, step.at_ms)}"


def _pending(case: Case) -> str:
    since = [cohort.since_ms for role in case.law.roles.values() for cohort in role.pending]
    return f"scale-in waits for what starts, at most until {_timeout(case, max(since, default=case.decision.at_ms))}"


def _timeout(case: Case, since_ms: int) -> str:
    return instant_text(since_ms + case.spec.behavior.pending.timeout.ms)


def _until(case: Case) -> str:
    if case.spec.until is None:
        return "it acts again once the mode is changed (`heteroscale resume`)"
    then = case.spec.then.value if case.spec.then else "active"
    return f"mode {case.decision.mode.value} ends at {case.spec.until}, and {then} follows"


def _fixed(case: Case) -> str:
    active = schedule.active(case.spec.schedules, case.decision.at_ms)
    return "the schedule has ended" if active is None else f"schedule {active.name} ends at {active.end} ({active.timezone})"


def _wished(case: Case) -> int:
    """The lead's count after bounds."""
    return case.decision.stages[3].value.get(case.track.lead, case.n)


def _way(case: Case) -> str:
    return "scale-out" if _wished(case) > case.n else "scale-in"


_AFTER_HOLD: Final[Mapping[Reason, Callable[[Case], str]]] = {
    Reason.STABILIZING: _stabilizing,
    Reason.COOLDOWN: _cooldown,
    Reason.RATE_LIMITED: _rate,
    Reason.OBSERVING: _observing,
    Reason.COLD_START: _cold,
    Reason.MISSING_DATA: _missing,
    Reason.GUARD_WAITS_FOR_PENDING: _guard_waits,
    Reason.GUARD_BLOCKS: lambda _: "scale-in is possible once every guarded latency is below 90 % of its moderate threshold",
    Reason.PENDING: _pending,
    Reason.PAUSED: _until,
    Reason.SUSPENDED: _until,
    Reason.SCHEDULE_FIXED: _fixed,
    Reason.AT_BOUND: lambda _: "another bound in the spec would let it go on (`heteroscale apply`)",
    Reason.CAPACITY_LIMITED: lambda _: "placement goes on trying; freed or added GPUs let it go on (`heteroscale why-unplaced`)",
    Reason.UNADOPTED: lambda _: "adopting the running instances lets it go on (`heteroscale placements adopt`)",
    Reason.SPEC_CHANGED: lambda _: "the first window of the new spec is judged",
}
