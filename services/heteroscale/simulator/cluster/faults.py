"""Faults on order, `KIND:NAME@TIME[+DURATION]`; the duration says when it heals.

`s1`, `node` and `instance` end engines. `silence`, `garbage` and `late` spoil the telemetry of SERVICE or SERVICE/ROLE: it does not come,
it is nonsense, or it comes a minute late.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.units import Duration

_FAULT = re.compile(r"(?P<kind>s1|node|instance|silence|garbage|late):(?P<name>[^@]+)@(?P<time>[^+]+)(\+(?P<duration>.+))?")
_CURE = "write KIND:NAME@TIME[+DURATION], such as s1:leaf-1-1@6h+30m, node:srv1101@90m, instance:chat/prefill@12h, silence:chat@2h+10m"


class FaultKind(enum.Enum):
    """What fails."""

    S1 = "s1"
    NODE = "node"
    INSTANCE = "instance"
    SILENCE = "silence"
    GARBAGE = "garbage"
    LATE = "late"


TELEMETRY_FAULTS: Final = frozenset({FaultKind.SILENCE, FaultKind.GARBAGE, FaultKind.LATE})


@dataclass(frozen=True, slots=True)
class Fault:
    """`at_ms` and `heals_at_ms` count from the start of the trace; an instance's process ends and does not heal.

    An instance is named in full, or by the start of its name (`chat/prefill` takes the first such instance then running).
    """

    kind: FaultKind
    name: str
    at_ms: int
    heals_at_ms: int | None


def parse(text: str) -> Fault:
    """A fault as written on the command line. Raises Rejected that says what to write."""
    found = _FAULT.fullmatch(text.strip())
    if found is None:
        raise Rejected("fault", f"{text!r} is not a fault; {_CURE}", "--fault")
    try:
        at = Duration.parse(found["time"]).ms
        lasts = Duration.parse(found["duration"]).ms if found["duration"] else None
    except ValueError as error:
        raise Rejected("fault", f"{error} ({_CURE})", "--fault") from error
    return Fault(FaultKind(found["kind"]), found["name"], at, None if lasts is None else at + lasts)
