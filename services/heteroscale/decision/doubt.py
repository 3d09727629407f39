"""Windows from too far ahead wait for a second opinion: one wrong clock must not silence a service until its date. Pure.

A service decides a window only if it ends after the last one it decided, so a window from next year would make it deaf for a
year. Windows follow each other by hops; one that leaps is believed when the service's next window does not end before it.
"""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeVar

from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.units import MS_PER_UNIT

R = TypeVar("R")

LEAP_MS: Final = MS_PER_UNIT["h"]  # as far ahead as a sample may be of the newest tick


class Arrived(NamedTuple, Generic[R]):
    """A window and what brought it."""

    record: R
    window: SignalWindow


class Sifted(NamedTuple, Generic[R]):
    """What a window's arrival settles: the windows to decide now, in order, and one that was refuted."""

    believed: list[Arrived[R]]
    refuted: Arrived[R] | None = None


class Doubts(Generic[R]):
    """At most one doubtful window a service. In memory alone: no state includes it, so whoever takes over reads it again."""

    def __init__(self) -> None:
        self._held: dict[ServiceName, Arrived[R]] = {}

    def sift(self, arrived: Arrived[R], decided_ms: int) -> Sifted[R]:
        """Take a window of a service whose last decided window ends at `decided_ms` (negative: none, then anything is believed)."""
        service, end_ms = arrived.window.service, arrived.window.end_ms
        if decided_ms < 0 or end_ms <= decided_ms:
            return Sifted([arrived])
        held = self._held.pop(service, None)
        confirmed = held is not None and end_ms >= held.window.end_ms
        believed = [held] if held is not None and confirmed else []
        refuted = None if confirmed else held
        last_ms = believed[0].window.end_ms if believed else decided_ms
        if end_ms - last_ms > LEAP_MS:
            self._held[service] = arrived
            return Sifted(believed, refuted)
        return Sifted([*believed, arrived], refuted)

    def clear(self) -> None:
        """The partitions were given up."""
        self._held.clear()

    def forget(self, service: ServiceName) -> None:
        """The service was let go."""
        self._held.pop(service, None)
