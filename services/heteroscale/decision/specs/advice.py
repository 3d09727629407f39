"""What is allowed in a spec and yet hardly meant: said by `validate` and `apply`, refused by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from heteroscale.contracts.spec import Level, Metric, Mode, PlacementSpec, ServiceSpec
from heteroscale.contracts.units import Duration
from heteroscale.decision.specs.problems import Path, Problem

_WIDTH: Final = {Level.S0: 0, Level.S1: 1, Level.S2: 2, Level.CLUSTER: 3}


def advise(spec: ServiceSpec) -> list[Problem]:
    """Everything worth a second look, in the order of the fields."""
    return [*_mode(spec), *_roles(spec), *_window(spec), *_movement(spec), *_placement(spec)]


def _mode(spec: ServiceSpec) -> Iterator[Problem]:
    if spec.mode is Mode.SHADOW:
        yield Problem(("mode",), "shadow recommends and moves nothing; write mode: active once its decisions look right")


def _roles(spec: ServiceSpec) -> Iterator[Problem]:
    signalled = {signal.role for signal in spec.signals}
    for role in sorted(set(spec.roles) - set(spec.ratio) - signalled):
        yield Problem(("roles", role), f"{role} is outside the ratio and has no signal, so it never moves; add a signal for it, or a share")
    if all(signal.metric is Metric.NONE for signal in spec.signals) and not spec.schedules:
        yield Problem(("signals",), "none measures anything and there is no schedule, so only bounds move the service; add one of the two")


def _window(spec: ServiceSpec) -> Iterator[Problem]:
    window = spec.window
    if window.silence.ms < window.interval.ms:
        text = f"{window.silence} is below interval {window.interval}, so instances fall silent between samples"
        yield Problem(("window", "silence"), f"{text}; write silence: {Duration(3 * window.interval.ms)}")
    if window.forget.ms < window.silence.ms:
        text = f"{window.forget} is below silence {window.silence}, so an instance is forgotten before it counts as silent"
        yield Problem(("window", "forget"), f"{text}; write forget: 10m")
    if window.interval.ms > window.size.ms:
        text = f"{window.interval} between samples is above the window's size {window.size}, so most windows see no sample"
        yield Problem(("window", "interval"), f"{text}; write size: {window.interval} or more")


def _movement(spec: ServiceSpec) -> Iterator[Problem]:
    for index, guard in enumerate(spec.guards):
        if guard.moderate_step.fraction > guard.severe_step.fraction:
            at: Path = ("guards", index, "moderate_step")
            yield Problem(
                at, f"{guard.moderate_step} is above severe_step {guard.severe_step}; a severe alarm then adds less than a moderate"
            )
    scale_in = spec.behavior.scale_in
    if scale_in.tolerance.fraction >= 1:
        yield Problem(("behavior", "scale_in", "tolerance"), f"{scale_in.tolerance} never scales in; write less, such as 15%")
    if spec.missing_data.fallback == "schedule" and not any(schedule.replicas for schedule in spec.schedules):
        text = "'schedule' has no schedule with replicas to fall back to, so it holds; add one or write fallback: hold"
        yield Problem(("missing_data", "fallback"), text)


def _placement(spec: ServiceSpec) -> Iterator[Problem]:
    placement = spec.placement
    if not isinstance(placement, PlacementSpec):
        return
    if placement.prefer is not None and _WIDTH[placement.prefer] > _WIDTH[placement.affinity.level]:
        text = f"{placement.prefer.value!r} is wider than the affinity level {placement.affinity.level.value!r} and says nothing"
        yield Problem(("placement", "prefer"), f"{text}; write {placement.affinity.level.value} or narrower")
    if placement.prefer is None and placement.wait.ms:
        yield Problem(("placement", "wait"), f"{placement.wait} has nothing to wait for without prefer; write wait: 0s or prefer: s1")
