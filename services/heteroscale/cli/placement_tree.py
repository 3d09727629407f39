"""A Placement for people: groups, their domain, their roles and instances, as a tree."""

from __future__ import annotations

from collections.abc import Iterator

from heteroscale.contracts.placements import Domain, Group, PlacedInstance, Placement
from heteroscale.contracts.units import instant_text


def lines(placement: Placement) -> Iterator[str]:
    """The tree, line by line."""
    at = instant_text(placement.at_ms)
    order = "dry run" if placement.dry_run else f"gen {placement.gen} seq {placement.seq}"
    yield f"{placement.service}  {placement.status.value}  revision {placement.revision}  {order}  {at}"
    for number, group in enumerate(placement.groups, 1):
        last = number == len(placement.groups)
        yield f"{'└─' if last else '├─'} {_group(group)}"
        stem = "   " if last else "│  "
        for position, (label, members) in enumerate(_roles(group), 1):
            end = position == len(_roles(group))
            ready = sum(one.routable for one in members)
            yield f"{stem}{'└─' if end else '├─'} {label}: {len(members)}, {ready} routable"
            branch = stem + ("   " if end else "│  ")
            for index, one in enumerate(members, 1):
                yield f"{branch}{'└─' if index == len(members) else '├─'} {_instance(one)}"
    if placement.shortfall:
        missing = ", ".join(f"{count} {role}" for role, count in sorted(placement.shortfall.items()))
        yield f"missing: {missing}; heteroscale why-unplaced {placement.service}"


def path(domain: Domain | None) -> str:
    """A domain as a path."""
    if domain is None:
        return "-"
    return "/".join(part for part in (domain.cluster, domain.s2, domain.s1) if part) or "-"


def _group(group: Group) -> str:
    degraded = f"  DEGRADED ({group.degraded_reason.value if group.degraded_reason else 'unknown'})" if group.degraded else ""
    return f"{group.id}  {path(group.domain)}  pool {group.pool.value}{degraded}"


def _roles(group: Group) -> list[tuple[str, list[PlacedInstance]]]:
    found: dict[str, list[PlacedInstance]] = {}
    for one in group.instances:
        found.setdefault(one.role if one.part is None else f"{one.role}/{one.part}", []).append(one)
    return sorted(found.items())


def _instance(one: PlacedInstance) -> str:
    nodes = ", ".join(f"{node} x{gpus}" for node, gpus in sorted(one.nodes.items()))
    replica = "" if one.replica is None else f"  replica {one.replica}"
    hidden = "" if one.routable or one.state.value != "ready" else "  held back"
    return f"{one.id}  {one.state.value}{hidden}  {one.gpu_type} on {nodes}{replica}"
