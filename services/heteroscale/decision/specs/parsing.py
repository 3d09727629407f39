"""`parse_spec`: an untyped document (YAML, JSON) to a ServiceSpec that makes sense, or everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import Metric, ServiceSpec, SignalSpec
from heteroscale.contracts.units import Duration
from heteroscale.decision.specs import validation
from heteroscale.decision.specs.problems import Path, Problem, SpecInvalid
from heteroscale.decision.specs.reading import Reading, read_document

_USUAL_ROLE = {Metric.DECODE_TPS: "decode", Metric.PREFILL_TPS: "prefill", Metric.PREFILL_MISSED_TPS: "prefill"}


def parse_spec(document: object, place: str = "", place_of: Callable[[Path], str] | None = None) -> ServiceSpec:
    """A spec that makes sense. Short forms are written out: GPU types as plain names, the ratio of a single role, a signal's role.

    `place` stands before the message; `place_of` gives a field's own place (FILE:LINE) where that is known.
    Raises SpecInvalid (a Rejected, code `spec`) with all problems, each with field, value and cure.
    """
    return parse_with_source(document, place, place_of)[0]


def parse_with_source(document: object, place: str = "", place_of: Callable[[Path], str] | None = None) -> tuple[ServiceSpec, Reading]:
    """As `parse_spec`, with what the document itself stated (`Reading.given`)."""
    spec, reading = read_document(_long_form(document))
    spec = _with_signal_roles(spec)
    problems = [
        *reading.problems,
        *(
            _as_written(problem, reading)
            for problem in validation.check(spec, reading.given.keys())
            if not problem.depends_on(reading.unread)
        ),
    ]
    if problems:
        raise SpecInvalid(problems, place, place_of)
    return spec, reading


def checked(spec: ServiceSpec, place: str = "") -> ServiceSpec:
    """A spec that was decoded elsewhere (a record of specs.v1), with each signal's role written out. Raises SpecInvalid as above."""
    spec = _with_signal_roles(spec)
    problems = validation.check(spec, frozenset())
    if problems:
        raise SpecInvalid(problems, place)
    return spec


def _as_written(problem: Problem, reading: Reading) -> Problem:
    """The problem with durations in the words of the document: `120s`, where that was written, and not `2m`."""
    text = problem.text
    for path, times in ((problem.path, 1), *((path, 0) for path in problem.touches)):
        written = reading.given.get(path)
        try:
            shown = str(Duration.parse(written))
        except ValueError:
            continue
        text = re.sub(rf"(?<![\w.]){re.escape(shown)}(?![\w.])", str(written), text, count=times)
    return msgspec.structs.replace(problem, text=text)


def _long_form(document: object) -> object:
    """The document with the ratio of a single role written out."""
    if not isinstance(document, dict) or document.get("ratio") is not None:
        return document
    roles = document.get("roles")
    if isinstance(roles, dict) and len(roles) == 1:
        return {**document, "ratio": {role: 1 for role in roles if isinstance(role, str)}}
    return document


def _with_signal_roles(spec: ServiceSpec) -> ServiceSpec:
    signals = [
        signal if signal.role is not None else msgspec.structs.replace(signal, role=_usual_role(signal, spec.roles, spec.ratio))
        for signal in spec.signals
    ]
    return msgspec.structs.replace(spec, signals=signals)


def _usual_role(signal: SignalSpec, roles: Mapping[RoleName, Any], ratio: Mapping[RoleName, int]) -> RoleName | None:
    """The role that a signal without one means: the only one, the metric's own; for `none` the last of the ratio."""
    if len(roles) == 1:
        return next(iter(roles))
    if signal.metric is Metric.NONE:
        return "decode" if "decode" in ratio else max(ratio, default=None)
    usual = _USUAL_ROLE.get(signal.metric)
    return usual if usual in roles else None
