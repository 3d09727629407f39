"""The ratio: counts of all roles from one scalar, and back. Epsilon 1e-9 against float noise is in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping

from heteroscale.contracts.names import RoleName

EPSILON = 1e-9


def ceil(value: float) -> int:
    """Ceiling that forgives float noise just above an integer."""
    return math.ceil(value - EPSILON)


def floor(value: float) -> int:
    """Floor that forgives float noise just below an integer."""
    return math.floor(value + EPSILON)


def derive(n: int, ratio: Mapping[RoleName, int], lead: RoleName) -> dict[RoleName, int]:
    """Replicas of every role in the ratio when the lead has `n`: ceil(n * ratio[role] / ratio[lead]), in integers."""
    return {role: -(-n * share // ratio[lead]) for role, share in sorted(ratio.items())}


def lead_for(count: int, role: RoleName, ratio: Mapping[RoleName, int], lead: RoleName) -> int:
    """The smallest n whose derived count of `role` is at least `count`."""
    if count <= 0:
        return 0
    # ceil(n * r / l) >= count  <=>  n * r > (count - 1) * l
    return (count - 1) * ratio[lead] // ratio[role] + 1
