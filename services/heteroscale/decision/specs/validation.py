"""What makes sense in a spec: every rule across fields, each one a function that yields what is wrong and what to write instead.

Pure: knows the spec alone. Counts and schedules have modules of their own (`spec_counts`, `spec_schedules`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

from heteroscale.contracts.spec import Level, Metric, PlacementSpec, ServiceSpec, SignalSpec
from heteroscale.contracts.units import Duration
from heteroscale.decision.specs.counts import check_ratio, check_roles
from heteroscale.decision.specs.problems import Path, Problem, did_you_mean
from heteroscale.decision.specs.schedules import check_schedules

Rule: TypeAlias = Callable[[ServiceSpec], Iterator[Problem]]

FRACTIONS: Final = frozenset({Metric.GPU_UTIL, Metric.SM_ACTIVE, Metric.KV_USAGE})
NAME_CHARACTERS_MAX: Final = 200
_SERVICE: Final = re.compile(r"[^\s#|/{}\x00-\x1f]+")
_TARGETS: Final = {
    Metric.DECODE_TPS: "decode tokens/s that one serving instance of weight 1 should carry, such as target: 4200",
    Metric.PREFILL_TPS: "prompt tokens/s that one serving instance of weight 1 should carry, such as target: 40000",
    Metric.PREFILL_MISSED_TPS: "uncached prompt tokens/s that one serving instance of weight 1 should carry, such as target: 33000",
    Metric.GPU_UTIL: "wanted mean GPU utilisation as a fraction, such as target: 0.7",
    Metric.SM_ACTIVE: "wanted mean SM activity as a fraction, such as target: 0.6",
    Metric.KV_USAGE: "wanted mean KV cache usage as a fraction, such as target: 0.7",
}


def check(spec: ServiceSpec, given: AbstractSet[Path]) -> list[Problem]:
    """Everything that makes no sense in a spec; `given` holds the paths that its document states."""
    return [*(problem for rule in RULES for problem in rule(spec)), *check_inapplicable(spec, given)]


def check_names(spec: ServiceSpec) -> Iterator[Problem]:
    """Names become record keys and parts of ids."""
    for key, name in (("service", spec.service), ("fleet", spec.fleet)):
        if not name.strip():
            yield Problem((key,), f"is empty; write a name such as {'chat-70b' if key == 'service' else 'default'}")
        elif _SERVICE.fullmatch(name) is None:
            better = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "chat-70b"
            yield Problem((key,), f"{name!r} has characters that record keys cannot have; write {better}")
        elif len(name) > NAME_CHARACTERS_MAX:
            yield Problem((key,), f"has {len(name)} characters; write at most {NAME_CHARACTERS_MAX}")


def check_mode(spec: ServiceSpec) -> Iterator[Problem]:
    """A mode for a time needs its end and what follows."""
    if spec.until is not None and spec.then is None:
        yield Problem(("then",), f"is missing beside until {spec.until}; write the mode that follows, such as then: active", (("until",),))
    if spec.then is not None and spec.until is None:
        cure = "write the end of the mode, such as until: 2026-12-01T00:00Z, or leave then out"
        yield Problem(("until",), f"is missing beside then {spec.then.value!r}; {cure}", (("then",),))


def check_window(spec: ServiceSpec) -> Iterator[Problem]:
    """Windows are whole numbers of hops."""
    window = spec.window
    for key in ("size", "hop", "interval", "forget"):
        if getattr(window, key).ms == 0:
            yield Problem(("window", key), "0s is not possible; write a duration above 0, such as 15s")
    if not (window.size.ms and window.hop.ms):
        return
    size_path, hop_path = ("window", "size"), ("window", "hop")
    if window.hop.ms > window.size.ms:
        cure = f"write hop: {window.size} or less"
        yield Problem(hop_path, f"{window.hop} is above the window's size {window.size}, so data would be skipped; {cure}", (size_path,))
    elif window.size.ms % window.hop.ms:
        better = Duration(_largest_divisor(window.size.ms, window.hop.ms))
        cure = f"write hop: {better} or size: {Duration(-(-window.size.ms // window.hop.ms) * window.hop.ms)}"
        yield Problem(hop_path, f"{window.hop} does not divide the window's size {window.size}; {cure}", (size_path,))


def _largest_divisor(size: int, most: int) -> int:
    """The largest divisor of `size` that is not above `most`."""
    best = 1
    at = 1
    while at * at <= size:
        if size % at == 0:
            best = max(best, *(divisor for divisor in (at, size // at) if divisor <= most))
        at += 1
    return best


def check_signals(spec: ServiceSpec) -> Iterator[Problem]:
    """Each signal has a role and a target in its own unit; the first leads the ratio."""
    if not spec.signals:
        cure = "write [{metric: decode_tps, role: decode, target: 4200}], or [{metric: none}] for schedules and bounds alone"
        yield Problem(("signals",), f"is empty; {cure}")
    seen: dict[tuple[str, str | None], int] = {}
    for index, signal in enumerate(spec.signals):
        at: Path = ("signals", index)
        first = seen.setdefault((signal.metric.value, signal.role), index)
        if first != index:
            yield Problem(at, f"repeats signals[{first}] ({signal.metric.value} of {signal.role}); keep one of them", (("signals", first),))
        yield from _check_signal_role(spec, signal, at)
        yield from _check_target(signal, at)
        if not 0 <= signal.min_coverage <= 1:
            yield Problem((*at, "min_coverage"), f"{signal.min_coverage:g} is not a fraction from 0 to 1; write 0.8")


def _check_signal_role(spec: ServiceSpec, signal: SignalSpec, at: Path) -> Iterator[Problem]:
    place = (*at, "role")
    if signal.role is None:
        example = next(iter(sorted(spec.roles)), "decode")
        yield Problem(place, f"is missing; say whose {signal.metric.value} is meant, such as role: {example}")
    elif spec.roles and signal.role not in spec.roles:
        yield Problem(place, f"{signal.role!r} is not one of the roles; {did_you_mean(signal.role, spec.roles)}")
    elif at[-1] == 0 and spec.ratio and signal.role not in spec.ratio:
        roles = " or ".join(sorted(set(spec.ratio) & set(spec.roles))) or "the ratio"
        text = f"{signal.role!r} is outside the ratio, and the first signal leads it; put a signal of {roles} first"
        yield Problem(place, text)


def _check_target(signal: SignalSpec, at: Path) -> Iterator[Problem]:
    place = (*at, "target")
    if signal.metric is Metric.NONE:
        return
    if signal.target is None:
        yield Problem(place, f"is missing; write the {_TARGETS[signal.metric]}", ((*at, "metric"),))
    elif signal.target <= 0:
        yield Problem(place, f"{signal.target:g} is not above 0; write the {_TARGETS[signal.metric]}", ((*at, "metric"),))
    elif signal.metric in FRACTIONS and signal.target > 1:
        better = f"{signal.target / 100:g}" if signal.target <= 100 else "0.7"
        yield Problem(place, f"{signal.target:g} is above 1, and {signal.metric.value} is a fraction; write {better}", ((*at, "metric"),))


def check_inapplicable(spec: ServiceSpec, given: AbstractSet[Path]) -> Iterator[Problem]:
    """Keys that say nothing beside the metric that was chosen."""
    for index, signal in enumerate(spec.signals):
        if signal.metric is not Metric.NONE:
            continue
        for key in ("target", "min_coverage"):
            path: Path = ("signals", index, key)
            if path in given and getattr(signal, key) is not None:
                text = f"{getattr(signal, key):g} does not apply to metric: none, which measures nothing; leave it out or choose a metric"
                yield Problem(path, text, (("signals", index, "metric"),))


def check_slo(spec: ServiceSpec) -> Iterator[Problem]:
    """Latency targets are above 0."""
    for key in ("ttft", "tbt"):
        target = getattr(spec.slo, key) if spec.slo is not None else None
        if target is not None and target.ms == 0:
            yield Problem(("slo", key), "0s is not possible; write a latency such as 60ms, or leave it out")


def check_guards(spec: ServiceSpec) -> Iterator[Problem]:
    """Severe is above moderate, and steps add something."""
    for index, guard in enumerate(spec.guards):
        at: Path = ("guards", index)
        if guard.moderate.ms == 0:
            yield Problem((*at, "moderate"), "0s would always alarm; write a latency such as 60ms")
        if guard.moderate.ms >= guard.severe.ms:
            better = Duration(max(1, guard.moderate.ms * 3 // 2))
            text = f"{guard.moderate} is not below severe {guard.severe}; write severe: {better} or a lower moderate"
            yield Problem((*at, "moderate"), text, ((*at, "severe"),))
        for key in ("moderate_step", "severe_step"):
            if getattr(guard, key).fraction <= 0:
                yield Problem((*at, key), "0% adds nothing; write a step such as 10%")
        if guard.role is not None and spec.roles and guard.role not in spec.roles:
            yield Problem((*at, "role"), f"{guard.role!r} is not one of the roles; {did_you_mean(guard.role, spec.roles)}")


def check_behavior(spec: ServiceSpec) -> Iterator[Problem]:
    """Movement: delays not shorter than a hop, policies that allow something."""
    scale_in = spec.behavior.scale_in
    if scale_in.stabilization.ms < spec.window.hop.ms:
        text = f"{scale_in.stabilization} is below the window's hop {spec.window.hop}, so one window could scale in by itself"
        yield Problem(("behavior", "scale_in", "stabilization"), f"{text}; write {spec.window.hop} or more", (("window", "hop"),))
    for way, policies in (("scale_out", spec.behavior.scale_out.policies), ("scale_in", scale_in.policies)):
        for index, policy in enumerate(policies):
            at: Path = ("behavior", way, "policies", index)
            if policy.value < 1:
                yield Problem((*at, "value"), f"{policy.value} allows nothing; write 1 or more, or select: disabled to stop this direction")
            if policy.period.ms == 0:
                yield Problem((*at, "period"), "0s is not possible; write a period such as 60s")


def check_placement(spec: ServiceSpec) -> Iterator[Problem]:
    """Levels that roles can share."""
    placement = spec.placement
    if not isinstance(placement, PlacementSpec):
        return
    at: Path = ("placement",)
    if placement.affinity.level is Level.S0:
        yield Problem((*at, "affinity", "level"), "'s0' is not a level that roles share; write s1, s2 or cluster")
    if placement.prefer is Level.S0:
        yield Problem((*at, "prefer"), "'s0' is not a level to prefer; write s1, s2 or cluster, or null for no preference")


def check_together(specs: Sequence[tuple[str, ServiceSpec]]) -> Iterator[tuple[int, Problem]]:
    """Specs (each with its place) that name one target; yields the index of the later one."""
    first: dict[str, str] = {}
    for index, (place, spec) in enumerate(specs):
        if spec.service in first:
            text = f"{spec.service!r} is the target of another spec too ({first[spec.service]}); keep one, or rename one service"
            yield index, Problem(("service",), text)
        first.setdefault(spec.service, place)


def check_change(before: ServiceSpec | None, after: ServiceSpec, instances: Mapping[str, int]) -> Iterator[Problem]:
    """A new revision against the one in force; `instances` counts what the newest Placement lists, per role."""
    running = sum(instances.values())
    if before is not None and before.fleet != after.fleet and running:
        text = f"{after.fleet!r} is not {before.fleet!r}, where {running} instances still run"
        cure = f"write fleet: {before.fleet}, or first heteroscale delete {after.service} --drain"
        yield Problem(("fleet",), f"{text}; {cure}")


RULES: Final[Iterable[Rule]] = (
    check_names,
    check_mode,
    check_roles,
    check_ratio,
    check_window,
    check_signals,
    check_slo,
    check_guards,
    check_behavior,
    check_schedules,
    check_placement,
)
