"""One run of one policy on one trace, and its figures."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import msgspec

from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.telemetry import EngineState
from heteroscale.decision.law import ratio
from heteroscale.runtime.clock import SYSTEM
from heteroscale.simulator import closing, policies
from heteroscale.simulator.cluster import world
from heteroscale.simulator.cluster.world import STEP_MS, Scene, World
from heteroscale.simulator.cores import direct
from heteroscale.simulator.cores.direct import Decider, Direct
from heteroscale.simulator.cores.panes import Inside
from heteroscale.simulator.figures.report import MINUTE_MS, Minute
from heteroscale.simulator.figures.seen import Seen
from heteroscale.simulator.load.traffic import Traffic
from heteroscale.simulator.loop.baseline import Baseline
from heteroscale.simulator.model.service import ServiceModel
from heteroscale.simulator.model.static import Day
from heteroscale.simulator.outcome import cases

SHARE_DEFAULT = 0.7  # of the reference rates, for ours without a setting
IMBALANCE = 0.25  # of the ratio
MINUTE_QUANTILE = 0.95
HISTORY_SEED = 99
STARTUP_S = 120.0
WARMUP_STARTS = 90  # one engine a start-up is what the slowest policy adds, and the first rates need dozens


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What a run cost and gave. Attainments are shares of requests; `minutes_within` of minutes whose p95 met both targets."""

    case: str
    policy: str
    setting: float | None
    seed: int
    startup_s: float
    hours: float
    gpu_hours: float
    gpu_hours_static: float
    gpu_util: float
    gpu_util_static: float
    gpu_util_by_role: dict[str, float]
    slo_attainment: float
    ttft_attainment: float
    tbt_attainment: float
    minutes_within: float
    unserved: int
    scale_actions: int
    direction_changes: int
    imbalance_minutes: float
    unplaced_minutes: float
    cross_s2_pairs: int
    wall_s: float


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A run to be made. `hours` cuts the trace."""

    case: str
    policy: str
    setting: float | None = None
    seed: int = 1
    startup_s: float = STARTUP_S
    hours: float | None = None


@dataclass(slots=True)
class Balance:
    """Minutes in which a role is off what the ratio asks beside the ready lead, by IMBALANCE and by more than one."""

    spec: ServiceSpec
    from_ms: int
    last_ms: int | None = None
    off_ms: int = 0

    def look(self, here: World) -> None:
        """At each hop."""
        now = here.now_ms
        if self.last_ms is not None and self.last_ms >= self.from_ms and self._off(here):
            self.off_ms += now - self.last_ms
        self.last_ms = now

    def _off(self, here: World) -> bool:
        engines = here.models[self.spec.service].engines.values()
        ready = {role: sum(1 for one in engines if one.role == role and one.state is EngineState.SERVING) for role in self.spec.ratio}
        if not all(ready.values()):
            return True
        lead = self.spec.signals[0].role or min(self.spec.ratio)
        wanted = ratio.derive(ready[lead], self.spec.ratio, lead)
        return any(abs(ready[role] - wanted[role]) > max(1.0, IMBALANCE * wanted[role]) for role in wanted)


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What the runs of one trace and seed share: the load, the day that was seen before, and what was worked out of both."""

    traffic: Traffic
    day: Day
    history: Day | None


@functools.lru_cache(maxsize=4)
def ground(case_name: str, seed: int, startup_s: float, hours: float | None, *, prefix_hits: bool = False) -> Ground:
    """Load and history. The history is the case that settings are chosen on, where that is the same service in another week."""
    case = cases.CASES[case_name]
    trace = cases.scaled(case.traffic())
    history = None
    if case.tuned_on.startswith("servegen"):
        other = cases.CASES[case.tuned_on].traffic()
        history = other.scaled(float(trace.totals[0, 0] / case.traffic().totals[0, 0]))
    if hours is not None:
        trace = trace.until(hours * 3600)
    if prefix_hits:
        trace = cases.cached(trace)
    scene = _scene(cases.spec_of(trace, SHARE_DEFAULT), trace, seed, startup_s)
    day = closing.day_of(scene, _model(world.build(scene), startup_s))
    seen = None if history is None else replace(day, load=history.steps(STEP_MS / 1000, HISTORY_SEED))
    return Ground(trace, day, seen)


def _scene(spec: ServiceSpec, traffic: Traffic, seed: int, startup_s: float) -> Scene:
    """With a warm-up in which engines can start often enough for the trace to find everybody settled."""
    warm_s = WARMUP_STARTS * max(startup_s, STARTUP_S)
    warmup_ms = round(warm_s * 1000 / MINUTE_MS) * MINUTE_MS
    return Scene([spec], [traffic], cases.fleet(), cases.START_MS, "outcome", cases.PROFILE, seed, warmup_ms=warmup_ms)


def _model(here: World, startup_s: float) -> ServiceModel:
    (model,) = here.models.values()
    model.curves = replace(model.curves, profile=cases.with_startup(startup_s))
    return model


@dataclass(slots=True)
class Stage:
    """A run made ready: the world of one seed on its ground."""

    order: Order
    ground: Ground
    spec: ServiceSpec
    here: World = field(init=False)

    def __post_init__(self) -> None:
        self.here = world.build(_scene(self.spec, self.ground.traffic, self.order.seed, self.order.startup_s))
        self.spec = _model(self.here, self.order.startup_s).spec

    def run(self, decider: Decider) -> Trial:
        """Play it."""
        scene = self.here.scene
        started = SYSTEM.monotonic_s()
        run = Direct(self.here, {self.spec.service: decider}, closing.tallies_of(scene, self.here.models), Inside.MEAN)
        balance = Balance(self.spec, scene.start_ms)

        def look(here: World, _: Seen) -> None:
            balance.look(here)

        run.play(scene.ends_at_ms + 1, look)
        summary = closing.of_direct(scene, run, {self.spec.service: self.ground.day}).summary
        util = summary.gpu_util or 0.0
        static = summary.gpu_hours_static_peak
        return Trial(
            case=self.order.case,
            policy=self.order.policy,
            setting=self.order.setting,
            seed=self.order.seed,
            startup_s=self.order.startup_s,
            hours=summary.hours,
            gpu_hours=summary.gpu_hours,
            gpu_hours_static=static,
            gpu_util=util,
            gpu_util_static=round(util * summary.gpu_hours / static, 4) if static else 0.0,
            gpu_util_by_role=summary.gpu_util_by_role,
            slo_attainment=summary.slo_attainment or 0.0,
            ttft_attainment=summary.ttft_attainment or 0.0,
            tbt_attainment=summary.tbt_attainment or 0.0,
            minutes_within=_within(list(run.tallies[self.spec.service].minutes.values())),
            unserved=summary.unserved_requests,
            scale_actions=summary.scale_actions,
            direction_changes=summary.direction_changes,
            imbalance_minutes=balance.off_ms / 60_000,
            unplaced_minutes=summary.unplaced_minutes,
            cross_s2_pairs=summary.cross_s2_pairs,
            wall_s=round(SYSTEM.monotonic_s() - started, 3),
        )


def _within(minutes: list[Minute]) -> float:
    """Share of minutes with traffic in which 95 % of requests met the TTFT target and 95 % of gaps the TBT target."""
    busy = [minute for minute in minutes if minute.requests > 0 and minute.tokens > 0]
    met = [m for m in busy if m.in_ttft >= MINUTE_QUANTILE * m.requests and m.in_tbt >= MINUTE_QUANTILE * m.tokens]
    return round(len(met) / len(busy), 6) if busy else 1.0


def staged(order: Order) -> Stage:
    """The stage of an order."""
    here = ground(order.case, order.seed, order.startup_s, order.hours)
    share = order.setting if order.policy == policies.OURS and order.setting is not None else SHARE_DEFAULT
    return Stage(order, here, cases.spec_of(here.traffic, share))


def play(order: Order) -> Trial:
    """One run from its order alone, so that it can be made in a process of its own."""
    stage = staged(order)
    if order.policy == policies.OURS:
        return stage.run(direct.Ours(stage.spec))
    setup = policies.Setup(stage.spec, stage.ground.day, cases.START_MS, stage.ground.history, order.setting)
    baseline = Baseline(stage.here.specs, {stage.spec.service: policies.build(order.policy, setup)})
    return stage.run(baseline.decider(stage.spec))
