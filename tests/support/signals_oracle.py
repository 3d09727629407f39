"""The windows' rules a second time, slow and plain: every window from all samples by loops, no panes, no columns, no caches.

Written from the contract, not from the core; shares only the message types with it. Good input only: what is refused is not its matter.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

COUNTERS = ("generation_tokens", "prompt_tokens", "cached_prompt_tokens")
Sample = dict[str, Any]


@dataclass
class Rules:
    """A service's window parameters."""

    size: int = 60_000
    hop: int = 15_000
    interval: int = 5_000
    lateness: int = 5_000
    silence: int = 15_000
    forget: int = 600_000
    roles: tuple[str, ...] = ()
    has_spec: bool = False


@dataclass
class _Known:
    rules: Rules
    samples: dict[str, dict[int, Sample]] = field(default_factory=dict)
    first: int | None = None
    last_end: int | None = None
    late: int = 0


def windows(records: list[dict[str, Any]], rules: dict[str, Rules] | None = None) -> list[dict[str, Any]]:
    """All windows that the ticks among `records` close, in order of closing, services sorted."""
    specs = rules or {}
    known: dict[str, _Known] = {}
    now: int | None = None
    out: list[dict[str, Any]] = []
    for record in records:
        if record["kind"] == "samples":
            service = known.setdefault(record["service"], _Known(specs.get(record["service"], Rules())))
            for sample in record["samples"]:
                _take(service, sample | {"layouts": record.get("layouts", {})}, now)
            continue
        if now is not None and record["at_ms"] <= now:
            continue
        now = record["at_ms"]
        for name, of_spec in specs.items():
            service = known.setdefault(name, _Known(of_spec))
            if service.last_end is None and of_spec.has_spec:
                service.first = now if service.first is None else min(service.first, now)
        for name in sorted(known):
            out += _close(name, known[name], now)
    return out


def _take(service: _Known, sample: Sample, now: int | None) -> None:
    mine = service.samples.setdefault(sample["instance"], {})
    if sample["at_ms"] in mine:
        return
    late = now is not None and sample["at_ms"] < now - service.rules.lateness
    service.late += late
    mine[sample["at_ms"]] = sample
    if service.last_end is None and (service.first is None or (not late and sample["at_ms"] < service.first)):
        service.first = sample["at_ms"]


def _close(name: str, service: _Known, now: int) -> list[dict[str, Any]]:
    rules = service.rules
    out: list[dict[str, Any]] = []
    while service.first is not None:
        end = -(-(service.first + rules.size) // rules.hop) * rules.hop if service.last_end is None else service.last_end + rules.hop
        if now - rules.lateness < end + rules.interval:
            break
        newest = max((at for mine in service.samples.values() for at in mine), default=-math.inf)
        if not rules.has_spec and end - newest > rules.forget:
            service.samples.clear()
            service.first = service.last_end = None
            break
        out.append({"service": name, "end_ms": end, "late": service.late, "roles": _roles(service, end)})
        service.late = 0
        service.last_end = end
    return out


def _roles(service: _Known, end: int) -> dict[str, dict[str, Any]]:
    by_role: dict[str, list[tuple[list[Sample], Sample]]] = {role: [] for role in service.rules.roles}
    for _, mine in sorted(service.samples.items()):
        ordered = [mine[at] for at in sorted(mine)]
        before = [sample for sample in ordered if sample["at_ms"] < end]
        if not before:
            continue
        last = before[-1]
        shares = any(_shares(ordered, end, service.rules, counter) for counter in COUNTERS)
        if _standing(last, end, service.rules) is not None or shares:
            by_role.setdefault(last["role"], []).append((ordered, last))
    return {role: _role(members, end, service.rules) for role, members in sorted(by_role.items())}


def _standing(last: Sample, end: int, rules: Rules) -> str | None:
    age = end - last["at_ms"]
    state = last["state"]
    if state == "stopping":
        return None
    if age <= rules.silence:
        return str(state)
    return "silent" if state == "serving" and age <= rules.forget else None


def _shares(ordered: list[Sample], end: int, rules: Rules, counter: str) -> list[tuple[float, int, int]]:
    """(increase, from, to) of every pair of neighbours' part inside the window."""
    start = end - rules.size
    reading = [sample for sample in ordered if sample.get(counter) is not None]
    found: list[tuple[float, int, int]] = []
    for left, right in itertools.pairwise(reading):
        if right["at_ms"] >= end and right["at_ms"] - end > rules.interval:
            continue
        gap = right["at_ms"] - left["at_ms"]
        begin, stop = max(start, left["at_ms"]), min(end, right["at_ms"])
        if gap > rules.forget or stop <= begin:
            continue
        restarted = _other_life(left, right) or right[counter] < left[counter]
        increase = right[counter] - (0 if restarted else left[counter])
        found.append((increase * (stop - begin) / gap, begin, stop))
    return found


def _other_life(left: Sample, right: Sample) -> bool:
    starts = left.get("started_at_ms"), right.get("started_at_ms")
    return None not in starts and starts[0] != starts[1]


def _role(  # noqa: C901 (plain on purpose: one loop, as the contract reads)
    members: list[tuple[list[Sample], Sample]], end: int, rules: Rules
) -> dict[str, Any]:
    counts = dict.fromkeys(("loading", "serving", "draining", "silent"), 0)
    sums: dict[str, list[float]] = {counter: [] for counter in COUNTERS}
    missed: list[float] = []
    missed_known = True
    usable = 0
    last_values: dict[str, list[float]] = {"running": [], "waiting": []}
    means: dict[str, list[tuple[float, int]]] = {"kv_usage": [], "gpu_util": [], "sm_active": []}
    for ordered, last in members:
        standing = _standing(last, end, rules)
        inside = [sample for sample in ordered if end - rules.size <= sample["at_ms"] < end]
        parts = {counter: _shares(ordered, end, rules, counter) for counter in COUNTERS}
        for counter, found in parts.items():
            if found:
                sums[counter].append(math.fsum(part[0] for part in found))
        if parts["prompt_tokens"] and parts["cached_prompt_tokens"]:
            missed.append(max(0.0, sums["prompt_tokens"][-1] - sums["cached_prompt_tokens"][-1]))
        if standing in {"serving", "draining"}:
            if inside and all(sample.get("cached_prompt_tokens") is None for sample in inside):
                missed_known = False
            for gauge, values in last_values.items():
                if last.get(gauge) is not None:
                    values.append(last[gauge])
        if standing is not None:
            counts[standing] += 1
        if standing == "serving":
            usable += _usable(parts, last, end, rules)
            for gauge, pairs in means.items():
                heard = [sample[gauge] for sample in inside if sample.get(gauge) is not None]
                if heard:
                    pairs.append((math.fsum(heard) / len(heard), last.get("gpus") or 1))
    expected = counts["serving"] + counts["silent"]
    seconds = rules.size / 1_000
    return {
        "instances": counts,
        "coverage": usable / expected if expected else None,
        "decode_tps": math.fsum(sums["generation_tokens"]) / seconds if sums["generation_tokens"] else None,
        "prefill_tps": math.fsum(sums["prompt_tokens"]) / seconds if sums["prompt_tokens"] else None,
        "prefill_missed_tps": math.fsum(missed) / seconds if missed and missed_known else None,
        "running": math.fsum(last_values["running"]) if last_values["running"] else None,
        "waiting": math.fsum(last_values["waiting"]) if last_values["waiting"] else None,
        "kv_usage": _mean([(mean, 1) for mean, _ in means["kv_usage"]]),
        "gpu_util": _mean(means["gpu_util"]),
        "sm_active": _mean(means["sm_active"]),
        "ttft_ms": _quantiles(members, end, rules),
    }


def _mean(pairs: list[tuple[float, int]]) -> float | None:
    return math.fsum(mean * weight for mean, weight in pairs) / sum(weight for _, weight in pairs) if pairs else None


def _usable(parts: dict[str, list[tuple[float, int, int]]], last: Sample, end: int, rules: Rules) -> bool:
    start = max(end - rules.size, last.get("started_at_ms") or 0)
    if start >= end:
        return False
    covered = max(sum(max(0, stop - max(begin, start)) for _, begin, stop in found) for found in parts.values())
    return covered >= 0.8 * (end - start)


def _quantiles(  # noqa: C901 (plain on purpose)
    members: list[tuple[list[Sample], Sample]], end: int, rules: Rules
) -> dict[str, Any] | None:
    """TTFT: bucket differences per layout, on the union of edges, then linear inside the bucket."""
    per_layout: dict[tuple[float, ...], list[float]] = {}
    for ordered, _ in members:
        carrying = [sample for sample in ordered if sample.get("ttft") is not None]
        layouts = {tuple(sample["layouts"][sample["ttft"]["layout"]]) for sample in carrying}
        for edges in layouts:
            mine = [sample for sample in carrying if tuple(sample["layouts"][sample["ttft"]["layout"]]) == edges]
            totals = per_layout.setdefault(edges, [0.0] * (len(edges) + 1))
            for left, right in itertools.pairwise(mine):
                gap = right["at_ms"] - left["at_ms"]
                begin, stop = max(end - rules.size, left["at_ms"]), min(end, right["at_ms"])
                if (right["at_ms"] >= end and right["at_ms"] - end > rules.interval) or gap > rules.forget or stop <= begin:
                    continue
                old, new = left["ttft"]["counts"], right["ttft"]["counts"]
                fresh = _other_life(left, right) or any(b < a for a, b in zip(old, new, strict=True))
                for bucket, value in enumerate(new):
                    totals[bucket] += (value - (0 if fresh else old[bucket])) * (stop - begin) / gap
    seen = {edges: totals for edges, totals in per_layout.items() if sum(totals) > 0}
    if not seen:
        return None
    union = sorted({edge for edges in seen for edge in edges})
    merged = [0.0] * (len(union) + 1)
    for edges, totals in seen.items():
        for bucket, total in enumerate(totals[:-1]):
            low, high = (edges[bucket - 1] if bucket else 0.0), edges[bucket]
            for i, edge in enumerate(union):
                floor = union[i - 1] if i else 0.0
                if low <= floor and edge <= high:
                    merged[i] += total * (edge - floor) / (high - low)
        merged[-1] += totals[-1]
    whole = sum(merged)
    found: dict[str, Any] = {"approximate": len(seen) > 1, "count": whole}
    for name, rank in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        found[name] = _at_rank(union, merged, rank * whole)
    return found


def _at_rank(union: list[float], merged: list[float], sought: float) -> float:
    below = 0.0
    for i, edge in enumerate(union):
        if merged[i] > 0 and below + merged[i] >= sought - 1e-12:
            floor = union[i - 1] if i else 0.0
            return 1_000 * (floor + (edge - floor) * max(0.0, sought - below) / merged[i])
        below += merged[i]
    return 1_000 * union[-1]
