"""The only reader of the clock. Everything on the control path takes its time from records; the ticker alone asks here."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a process takes its time from."""

    def now_ms(self) -> int:
        """Unix milliseconds."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never step back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds since some moment before this one."""
        return time.perf_counter()


class ManualClock:
    """A clock that moves when it is told to."""

    __slots__ = ("_now_ms",)

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Seconds, in step with `now_ms`."""
        return self._now_ms / 1_000

    def advance(self, ms: int) -> None:
        """Go on by `ms`."""
        self._now_ms += ms


SYSTEM = SystemClock()


def now_ms() -> int:
    """Unix milliseconds of the machine's clock."""
    return SYSTEM.now_ms()


def monotonic_s() -> float:
    """Seconds that never step back, of the machine's clock."""
    return SYSTEM.monotonic_s()
