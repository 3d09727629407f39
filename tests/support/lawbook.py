"""Specs, windows and runs for tests of the control law, with defaults for all that a test does not care about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.names import DecisionId
from heteroscale.contracts.placements import (
    Domain,
    Group,
    InstanceState,
    PlacedInstance,
    Placement,
    PlacementStatus,
    Pool,
)
from heteroscale.contracts.signals import InstanceCounts, Quantiles, RoleSignal, SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision import controller
from heteroscale.decision.controller import Effects, Message, ServiceState
from heteroscale.decision.law.setting import Setting

START_MS = 1_780_000_020_000
HOP_MS = 15_000
SIZE_MS = 60_000
TARGET = 1_000.0
OFFLINE = Setting(placements=False, cold_start=False, offline=True)
WARM = Setting(placements=True, cold_start=False)
PLAIN: dict[str, Any] = {
    "service": "chat",
    "mode": "active",
    "roles": {"prefill": {"min": 1, "max": 50, "gpus": 8}, "decode": {"min": 2, "max": 100, "gpus": 8}},
    "ratio": {"prefill": 1, "decode": 2},
    "signals": [{"metric": "decode_tps", "role": "decode", "target": TARGET}],
    "behavior": {
        "scale_out": {"cooldown": "0s"},
        "scale_in": {"stabilization": "30s", "cooldown": "0s", "policies": [], "soft": None},
    },
    "revision": 1,
    "applied_at_ms": START_MS - 1,
}


def spec(**fields: Any) -> ServiceSpec:
    """The plain spec (a scale-in waits one window, nothing else waits, no soft scale-in) with some fields in place of its own."""
    return codec.convert(ServiceSpec, merged(PLAIN, fields))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`; mappings are merged, `ratio`, `roles` and lists are replaced."""
    result = dict(base)
    for name, value in over.items():
        deep = name not in {"roles", "ratio"} and isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if deep else value
    return result


def role(serving: int, **fields: Any) -> RoleSignal:
    """A role with full coverage; `loading`, `draining`, `silent` go to its instances."""
    counts = {name: fields.pop(name, 0) for name in ("loading", "draining", "silent")}
    coverage = fields.pop("coverage", 1.0 if serving else None)
    return RoleSignal(instances=InstanceCounts(serving=serving, **counts), coverage=coverage, **fields)


def window(at: int, *, decode: int, load: float | None, prefill: int | None = None, **fields: Any) -> SignalWindow:
    """Window number `at`; `load` is the decode demand in instances of target; other fields belong to the decode role."""
    end_ms = START_MS + at * HOP_MS
    known = fields.pop("spec_revision", 1)
    roles = fields.pop("roles", {})
    tps = None if load is None else round(load * TARGET, 6)
    signals = {"decode": role(decode, decode_tps=tps, **fields), "prefill": role(-(-decode // 2) if prefill is None else prefill)}
    return SignalWindow(service="chat", start_ms=end_ms - SIZE_MS, end_ms=end_ms, spec_revision=known, roles=signals | roles)


def latency(p95: float, count: int = 500) -> Quantiles:
    """A latency whose quantiles all are `p95` milliseconds."""
    return Quantiles(p50=p95, p90=p95, p95=p95, p99=p95, count=count)


def placement(
    revision: int,
    *,
    seq: int,
    counts: Mapping[str, Mapping[str, int]],
    status: PlacementStatus = PlacementStatus.CONVERGED,
    shortfall: Mapping[str, int] | None = None,
    dry_run: bool = False,
    at_ms: int = START_MS,
) -> Placement:
    """One group; `counts` is role → state → how many."""
    instances = [
        PlacedInstance(id=f"{name}-{state}-{i}", role=name, gpu_type="H20", nodes={}, state=InstanceState(state), since_ms=at_ms)
        for name, states in sorted(counts.items())
        for state, number in sorted(states.items())
        for i in range(number)
    ]
    return Placement(
        service="chat",
        fleet="default",
        revision=revision,
        command_id=DecisionId("c" * 16),
        seq=None if dry_run else seq,
        gen=1,
        at_ms=at_ms,
        status=status,
        groups=[Group(id="g1", domain=Domain(), pool=Pool.LOW, instances=instances)],
        shortfall=dict(shortfall or {}),
        dry_run=dry_run,
    )


@dataclass
class Run:
    """A service under the law; remembers what it decided and commanded, and its state after each."""

    spec: ServiceSpec
    setting: Setting = OFFLINE
    state: ServiceState = field(init=False)
    decisions: list[Decision] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    records: list[DecisionState] = field(default_factory=list)
    at: int = 0

    def __post_init__(self) -> None:
        self.state = ServiceState(self.spec.service, self.spec)

    def give(self, event: Message) -> Effects:
        """Any event."""
        self.state, effects = controller.step(self.state, event, setting=self.setting)
        if effects.decision is not None:
            self.decisions.append(effects.decision)
        if effects.state is not None:
            self.records.append(effects.state)
        if effects.command is not None:
            self.commands.append(effects.command)
        return effects

    def apply(self, changed: ServiceSpec) -> None:
        """Another spec from now on."""
        self.spec = changed
        self.give(changed)

    def window(self, *, decode: int, load: float | None, **fields: Any) -> Decision:
        """The next window; its Decision."""
        self.at += 1
        fields.setdefault("spec_revision", self.spec.revision)
        effects = self.give(window(self.at, decode=decode, load=load, **fields))
        assert effects.decision is not None
        return effects.decision

    def n(self) -> int:
        """The lead's count."""
        return self.state.law.roles["decode"].wanted


def counts(decision: Decision) -> dict[str, int]:
    """Replicas after a decision."""
    return {name: after.replicas for name, after in decision.after.items()}


def stage_reasons(decision: Decision) -> dict[str, str]:
    """Reasons of the stages that had one."""
    return {stage.stage.value: stage.reason.value for stage in decision.stages if stage.reason is not None}
