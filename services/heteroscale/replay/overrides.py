"""`--set behavior.scale_in.cooldown=30s`: another spec, by field, checked as any spec is. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import yaml

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision.specs.parsing import parse_spec
from heteroscale.decision.specs.problems import nearest

_STEP = re.compile(r"([A-Za-z_][\w-]*)|\[(\d+)\]|\.")
STAMPED = ("revision", "applied_at_ms", "applied_by", "reason")
IDENTITY = ("service", "fleet")


class Override(msgspec.Struct, frozen=True):
    """One field to be set, for all services or for one."""

    text: str
    path: tuple[str | int, ...]
    value: Any
    service: ServiceName | None = None


def parse(text: str) -> Override:
    """`[SERVICE:]PATH=VALUE`. Raises Rejected (`override`) that says what to write."""
    left, equals, right = text.partition("=")
    if not equals or not left.strip():
        raise Rejected("override", "write PATH=VALUE, such as behavior.scale_in.cooldown=30s", text)
    service, colon, path_text = left.strip().rpartition(":")
    steps: list[str | int] = []
    end = 0
    for found in _STEP.finditer(path_text):
        if found.start() != end:
            break
        end = found.end()
        if found[1] is not None:
            steps.append(found[1])
        elif found[2] is not None:
            steps.append(int(found[2]))
    if end != len(path_text) or not steps:
        raise Rejected("override", f"{path_text!r} is no field path; write it such as signals[0].target", text)
    if steps[0] in IDENTITY:
        raise Rejected("override", f"{steps[0]} says what the recording is of, and cannot be another one in a replay", text)
    try:
        value = yaml.safe_load(right)
    except yaml.YAMLError as error:
        raise Rejected("override", f"{right!r} is no value: {error}", text) from error
    return Override(text, tuple(steps), value, service if colon else None)


def check_services(overrides: Iterable[Override], services: Iterable[ServiceName]) -> None:
    """Every override that names a service names a known one. Raises Rejected (`unknown_service`)."""
    known = sorted(services)
    for one in overrides:
        if one.service is not None and one.service not in known:
            raise Rejected("unknown_service", f"there is no service {one.service}; there are {', '.join(known)}", one.text)


def applied(spec: ServiceSpec, overrides: Iterable[Override]) -> ServiceSpec:
    """The spec with its fields set. Raises Rejected (`override`, or what validation says)."""
    mine = [one for one in overrides if one.service in {None, spec.service}]
    if not mine:
        return spec
    document = codec.to_document(spec)
    stamps = {name: document.pop(name, None) for name in STAMPED}
    for one in mine:
        _set(document, one)
    changed = parse_spec(document, f"{spec.service} with --set")
    return msgspec.structs.replace(changed, **stamps)


def _set(document: Any, one: Override) -> None:
    here, last = document, len(one.path) - 1
    for at, step in enumerate(one.path):
        if not _has(here, step):
            raise Rejected("override", _unknown(here, step, one.path[:at]), one.text)
        if at == last:
            here[step] = one.value
        else:
            here = here[step]


def _has(here: Any, step: str | int) -> bool:
    if isinstance(here, dict):
        return step in here
    return isinstance(here, list) and isinstance(step, int) and step < len(here)


def _unknown(here: Any, step: str | int, path: Sequence[str | int]) -> str:
    where = ".".join(map(str, path)) or "the spec"
    if isinstance(here, list):
        return f"{where} has {len(here)} entries, and {step!r} is none of them"
    if isinstance(here, dict):
        near = nearest(str(step), here)
        return f"{where} has no {step!r}; " + (f"did you mean {near}?" if near else f"it has {', '.join(sorted(here))}")
    return f"{where} is a plain value and has no {step!r}"
