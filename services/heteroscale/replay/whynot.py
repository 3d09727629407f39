"""Why not another action: the live law asked again, with one limit lifted at a time, and with more or less demand.

No rule is written down here a second time. Each answer is the decision of the same window from the same state under a spec
that differs in one thing, so it is right by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import DecisionId
from heteroscale.contracts.signals import Quantiles, RoleSignal, SignalWindow
from heteroscale.contracts.spec import Mode, RatePolicy, ServiceSpec
from heteroscale.contracts.units import Duration, Percent
from heteroscale.decision import controller
from heteroscale.decision.controller import ServiceState
from heteroscale.decision.law.figures import plain
from heteroscale.replay import decision_stage
from heteroscale.replay.recorded import Recorded

SEARCH_STEPS: Final = 40
FACTOR_MAX: Final = 64.0
RATES: Final = ("decode_tps", "prefill_tps", "prefill_missed_tps", "gpu_util", "sm_active", "kv_usage")
_S = msgspec.structs.replace


class Situation(NamedTuple):
    """A decision's window and the state it was made from."""

    state: ServiceState
    window: SignalWindow
    spec: ServiceSpec
    recorded: Decision


class Reply(NamedTuple):
    """What would have led to the action asked for."""

    taken: Action
    lifted: list[str]
    together: list[str]
    demand: str | None


def situation(recorded: Recorded, decision: Decision) -> Situation:
    """The state before a decision. Raises Rejected (`no_state`) where the bundle does not reach back to one."""
    course = decision_stage.course(recorded, decision.service)
    state = course.start
    for cue in course.cues():
        if cue.recorded.message.id == decision.id:
            if cue.spec is not None:
                state = decision_stage.with_spec(state, cue.spec)
            for placement in cue.placements:
                state, _ = controller.step(state, placement.message, decision_stage.source_of(placement.record))
            if state.spec is None:
                break
            return Situation(state, cue.window.message, state.spec, decision)
        state, _ = decision_stage.apply(state, cue)
    raise Rejected("no_state", "the bundle does not hold the state this decision was made from", DecisionId(decision.id))


def ask(here: Situation, wanted: Action) -> Reply:
    """Single limits whose absence would have led to `wanted`; else all of them together; and the demand that would have."""
    taken = here.recorded.action
    if taken is wanted:
        return Reply(taken, [], [], None)
    limits = list(_limits(here.spec))
    lifted = [text for text, edit in limits if _action(here, edit(here.spec), here.window) is wanted]
    together: list[str] = []
    if not lifted:
        free = here.spec
        for _, edit in limits:
            free = edit(free)
        if _action(here, free, here.window) is wanted:
            together = _needed(here, wanted, limits)
    return Reply(taken, lifted, together, _demand(here, wanted))


def _needed(here: Situation, wanted: Action, limits: list[tuple[str, Callable[[ServiceSpec], ServiceSpec]]]) -> list[str]:
    """A smallest set of limits that have to go together: each is put back if the others suffice."""
    kept = list(limits)
    for one in limits:
        rest = [other for other in kept if other is not one]
        spec = here.spec
        for _, edit in rest:
            spec = edit(spec)
        if _action(here, spec, here.window) is wanted:
            kept = rest
    return [text for text, _ in kept]


def _action(here: Situation, spec: ServiceSpec, window: SignalWindow) -> Action | None:
    state = _S(here.state, spec=spec)
    _, effects = controller.step(state, window)
    return None if effects.decision is None else effects.decision.action


def _limits(spec: ServiceSpec) -> Iterator[tuple[str, Callable[[ServiceSpec], ServiceSpec]]]:
    """Everything in a spec that holds a move back, and the spec without it."""
    if spec.mode is not Mode.ACTIVE:
        yield "mode: active", lambda one: _S(one, mode=Mode.ACTIVE, until=None, then=None)
    for way in ("scale_out", "scale_in"):
        yield f"behavior.{way}.cooldown: 0s", _behavior(way, cooldown=Duration(0))
        yield f"behavior.{way}.stabilization: 0s", _behavior(way, stabilization=Duration(0))
        yield f"behavior.{way}.tolerance: 0%", _behavior(way, tolerance=Percent(0.0))
        free = [RatePolicy(type="pods", value=1_000_000, period=Duration(1_000))]
        yield f"no behavior.{way}.policies", _behavior(way, policies=free, select="max")
    yield (
        "behavior.pending.timeout: 0s",
        lambda one: _S(one, behavior=_S(one.behavior, pending=_S(one.behavior.pending, timeout=Duration(0)))),
    )
    for role in sorted(spec.roles):
        yield f"roles.{role}.min: 0", _bounds(role, "min", 0)
        yield f"roles.{role}.max: without limit", _bounds(role, "max", 1_000_000)
    if len(spec.roles) > 1:
        yield "max of all roles: without limit", _all_bounds("max", 1_000_000)
        yield "min of all roles: 0", _all_bounds("min", 0)
    if spec.guards:
        yield "guards: []", lambda one: _S(one, guards=[])
    if spec.schedules:
        yield "schedules: []", lambda one: _S(one, schedules=[])
    yield "signals[].min_coverage: 0", lambda one: _S(one, signals=[_S(each, min_coverage=0.0) for each in one.signals])


def _behavior(way: str, **fields: object) -> Callable[[ServiceSpec], ServiceSpec]:
    def edit(spec: ServiceSpec) -> ServiceSpec:
        behavior = spec.behavior
        return _S(spec, behavior=_S(behavior, **{way: _S(getattr(behavior, way), **fields)}))

    return edit


def _bounds(role: str, field: str, value: int) -> Callable[[ServiceSpec], ServiceSpec]:
    def edit(spec: ServiceSpec) -> ServiceSpec:
        return _S(spec, roles={**spec.roles, role: _S(spec.roles[role], **{field: value})})

    return edit


def _all_bounds(field: str, value: int) -> Callable[[ServiceSpec], ServiceSpec]:
    def edit(spec: ServiceSpec) -> ServiceSpec:
        return _S(spec, roles={role: _S(one, **{field: value}) for role, one in spec.roles.items()})

    return edit


def _demand(here: Situation, wanted: Action) -> str | None:
    """The nearest demand, as a factor on all rates, with latency left out of it, that would have led to the action."""
    if wanted not in {Action.SCALE_OUT, Action.SCALE_IN}:
        return None
    more = wanted is Action.SCALE_OUT
    far = FACTOR_MAX if more else 0.0
    if _action(here, here.spec, _scaled(here.window, far)) is not wanted:
        return None
    near = 1.0
    for _ in range(SEARCH_STEPS):
        middle = (near + far) / 2
        if _action(here, here.spec, _scaled(here.window, middle)) is wanted:
            far = middle
        else:
            near = middle
    told = []
    for signal in here.spec.signals:
        role = here.window.roles.get(signal.role or "")
        value = None if role is None else getattr(role, signal.metric.value, None)
        if value is not None:
            told.append(f"{signal.metric.value} of {signal.role} at {plain(value * far)} instead of {plain(value)}")
    side = "at or above" if more else "at or below"
    return f"demand {side} {far:.4f} times what it was ({'; '.join(told)})" if told else f"demand {side} {far:.4f} times what it was"


def _scaled(window: SignalWindow, factor: float) -> SignalWindow:
    return _S(window, roles={name: _scaled_role(role, factor) for name, role in window.roles.items()})


def _scaled_role(role: RoleSignal, factor: float) -> RoleSignal:
    rates = {name: None if getattr(role, name) is None else getattr(role, name) * factor for name in RATES}
    return _S(role, **rates)


def guard_text(window: SignalWindow) -> list[str]:
    """Latency as the guards saw it."""
    found = []
    for name, role in sorted(window.roles.items()):
        for latency in ("ttft", "tbt"):
            quantiles: Quantiles | None = getattr(role, f"{latency}_ms")
            if quantiles is not None:
                found.append(f"{latency} of {name}: p95 {plain(quantiles.p95)} ms over {quantiles.count} observations")
    return found
