"""Rules about counts: bounds, hardware, and the counts of the lead that keep every role inside its bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import RoleSpec, ServiceSpec
from heteroscale.decision.law import ratio as ratio_law
from heteroscale.decision.specs.problems import Path, Problem, did_you_mean


class Bounds(NamedTuple):
    """Least and most replicas of a role, and the fields that say so."""

    least: int
    most: int
    least_path: Path
    most_path: Path


def lead_of(spec: ServiceSpec) -> RoleName | None:
    """The role that n counts: the primary signal's, where it is in the ratio."""
    role = spec.signals[0].role if spec.signals else None
    return role if role in spec.ratio else None


def base_bounds(spec: ServiceSpec) -> dict[RoleName, Bounds]:
    """The bounds of all roles, without schedules."""
    return {name: Bounds(role.min, role.max, ("roles", name, "min"), ("roles", name, "max")) for name, role in sorted(spec.roles.items())}


def check_roles(spec: ServiceSpec) -> Iterator[Problem]:
    """Each role by itself."""
    if not spec.roles:
        yield Problem(("roles",), "is empty; write {prefill: {min: 1, max: 8, gpus: 8}, decode: {min: 2, max: 16, gpus: 8}}")
    for name, role in sorted(spec.roles.items()):
        at: Path = ("roles", name)
        if role.min < 0:
            yield Problem((*at, "min"), f"{role.min} is negative; write 0 or more")
        if role.max < 0:
            yield Problem((*at, "max"), f"{role.max} is negative; write 0 or more")
        if role.min > role.max:
            cure = f"write min: {role.max} or max: {role.min}"
            yield Problem((*at, "min"), f"{role.min} is above max {role.max}; {cure}", ((*at, "max"),))
        yield from _check_hardware(role, at)


def _check_hardware(role: RoleSpec, at: Path) -> Iterator[Problem]:
    if role.parts is None:
        if role.gpus is None:
            yield Problem((*at, "gpus"), "is missing; write the GPUs that one instance takes, such as gpus: 8")
        elif role.gpus < 1:
            yield Problem((*at, "gpus"), f"{role.gpus} is not possible; write the GPUs that one instance takes, 1 or more")
    else:
        yield from _check_parts(role, at)
    seen: set[str] = set()
    for index, choice in enumerate(role.gpu_types):
        place = (*at, "gpu_types", index)
        if not choice.type.strip():
            yield Problem((*place, "type"), "is empty; write a GPU type such as H20")
        if choice.type in seen:
            yield Problem((*place, "type"), f"{choice.type!r} is named twice; keep one of them")
        seen.add(choice.type)
        if choice.weight <= 0:
            cure = "write its throughput relative to the type that targets are stated for, such as 0.5"
            yield Problem((*place, "weight"), f"{choice.weight:g} is not above 0; {cure}")


def _check_parts(role: RoleSpec, at: Path) -> Iterator[Problem]:
    parts = role.parts or {}
    if not parts:
        yield Problem((*at, "parts"), "is empty; write {attention: {count: 1, gpus: 8}, ffn: {count: 2, gpus: 8}} or leave it out")
    sound = True
    for name, part in sorted(parts.items()):
        for key, value in (("count", part.count), ("gpus", part.gpus)):
            if value < 1:
                sound = False
                yield Problem((*at, "parts", name, key), f"{value} is not possible; write 1 or more")
    total = sum(part.count * part.gpus for part in parts.values())
    if parts and sound and role.gpus is not None and role.gpus != total:
        cure = f"write gpus: {total} or leave it out"
        yield Problem((*at, "gpus"), f"{role.gpus} is not the sum of the parts, {total}; {cure}", ((*at, "parts"),))


def check_ratio(spec: ServiceSpec) -> Iterator[Problem]:
    """The ratio by itself, and with the base bounds."""
    if not spec.ratio and spec.roles:
        example = ", ".join(f"{name}: 1" for name in sorted(spec.roles))
        yield Problem(("ratio",), f"is empty; write {{{example}}}")
    for role, share in sorted(spec.ratio.items()):
        if spec.roles and role not in spec.roles:
            yield Problem(("ratio", role), f"there is no such role; {did_you_mean(role, spec.roles)}")
        if share < 1:
            yield Problem(("ratio", role), f"{share} is not possible; write 1 or more, or take {role} out of the ratio")
    yield from check_feasible(spec, base_bounds(spec), ("ratio",), "")


def check_feasible(spec: ServiceSpec, bounds: Mapping[RoleName, Bounds], path: Path, context: str) -> Iterator[Problem]:
    """Whether some n of the lead puts derive(n) inside the bounds of all roles of the ratio; says which two bounds exclude each other."""
    lead = lead_of(spec)
    sound = lead is not None and all(share >= 1 and 0 <= bounds[role].least <= bounds[role].most
                                     for role, share in spec.ratio.items() if role in bounds)  # fmt: skip
    if lead is None or not sound or not set(spec.ratio) <= set(bounds):
        return  # said elsewhere
    lowest, low_role = max((ratio_law.lead_for(bounds[role].least, role, spec.ratio, lead), role) for role in spec.ratio)
    highest, high_role = min((bounds[role].most * spec.ratio[lead] // spec.ratio[role], role) for role in spec.ratio)
    if lowest <= highest:
        return
    low, high = bounds[low_role], bounds[high_role]
    needed = ratio_law.derive(lowest, spec.ratio, lead)[high_role]
    allowed = ratio_law.derive(highest, spec.ratio, lead)[low_role]
    shares = ", ".join(f"{role}: {share}" for role, share in sorted(spec.ratio.items()))
    text = (
        f"{{{shares}}} has no counts inside the bounds{context}: {_field(low.least_path)} {low.least} needs {needed} {high_role}, "
        f"but {_field(high.most_path)} is {high.most}; write {high_role} max: {needed} or {low_role} min: {allowed}"
    )
    yield Problem(path, text, (low.least_path, high.most_path, ("ratio",), ("signals", 0)))


def _field(path: Path) -> str:
    return ".".join(str(step) for step in path)
