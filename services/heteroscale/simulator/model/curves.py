"""Which curve an engine of a service follows: the profile's for its GPU type, else the reference type's times the spec's weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from heteroscale.contracts.spec import RoleSpec, ServiceSpec
from heteroscale.simulator.model import profiles
from heteroscale.simulator.model.pool import Kind
from heteroscale.simulator.model.profiles import DecodeCurve, PrefillCurve, Profile


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of one service. `factors`: throughput of (role, GPU type) relative to the curve it follows; 1 where measured."""

    profile: Profile
    prefill: PrefillCurve
    decode: DecodeCurve
    factors: dict[tuple[str, str], float]
    notes: tuple[str, ...]

    def factor(self, role: str, gpu_type: str) -> float:
        """1.0 for a type nobody stated a weight for."""
        return self.factors.get((role, gpu_type), 1.0)


def kind_of(role: str, spec: ServiceSpec) -> Kind:
    """What a role does: by its name, else by the signal that is judged on it."""
    if "prefill" in role:
        return Kind.PREFILL
    if "decode" in role:
        return Kind.DECODE
    metrics = {signal.metric.value for signal in spec.signals if signal.role == role}
    if any(metric.startswith("prefill") for metric in metrics):
        return Kind.PREFILL
    return Kind.DECODE if "decode_tps" in metrics else Kind.OTHER


def choose(spec: ServiceSpec, name: str | None) -> Curves:
    """The curves of a service: the named profile, else the one measured on a GPU type that the spec names first."""
    wanted = [choice.type for role in _sorted_roles(spec) for choice in role[1].gpu_types]
    profile = profiles.load(name) if name else _matching(wanted)
    notes: list[str] = []
    factors: dict[tuple[str, str], float] = {}
    prefill, decode = next(iter(profile.prefill.values())), next(iter(profile.decode.values()))
    for role_name, role in _sorted_roles(spec):
        kind = kind_of(role_name, spec)
        curves = profile.prefill if kind is Kind.PREFILL else profile.decode
        measured = [choice for choice in role.gpu_types if choice.type in curves]
        if measured and kind is Kind.PREFILL:
            prefill = profile.prefill[measured[0].type]
        elif measured and kind is Kind.DECODE:
            decode = profile.decode[measured[0].type]
        base = measured[0].weight if measured else 1.0
        for choice in role.gpu_types:
            factors[(role_name, choice.type)] = choice.weight / base
            if not measured or choice.type != measured[0].type:
                kin = measured[0].type if measured else next(iter(curves))
                factor = choice.weight / base
                notes.append(f"{spec.service}: no curve for {choice.type} in {profile.name}; modelled as {kin} times {factor:g}")
    return Curves(profile, prefill, decode, factors, tuple(sorted(set(notes))))


def _sorted_roles(spec: ServiceSpec) -> list[tuple[str, RoleSpec]]:
    return sorted(spec.roles.items())


def _matching(wanted: Iterable[str]) -> Profile:
    known = {kind: name for name in profiles.NAMES for kind in profiles.load(name).decode}
    return profiles.load(next((known[kind] for kind in wanted if kind in known), "h200_llama8b"))
