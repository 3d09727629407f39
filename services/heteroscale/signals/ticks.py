"""Time as one partition of telemetry.v1 tells it: the largest tick, guarded against one wrong clock."""

from __future__ import annotations

from typing import Final

JUMP_MS: Final = 600_000  # a longer step forward waits for a second opinion


class TickClock:
    """The newest tick in force. An older tick changes nothing; a jump takes effect when the next tick confirms it."""

    __slots__ = ("_doubtful_ms", "now_ms")

    def __init__(self) -> None:
        self.now_ms: int | None = None
        self._doubtful_ms: int | None = None

    def advance(self, at_ms: int) -> bool:
        """Take a tick; whether it is now in force (it raised `now_ms` to itself)."""
        doubtful_ms, self._doubtful_ms = self._doubtful_ms, None
        if self.now_ms is None:
            self.now_ms = at_ms
            return True
        if doubtful_ms is not None and at_ms >= doubtful_ms:
            self.now_ms = doubtful_ms
        if at_ms - self.now_ms > JUMP_MS:
            self._doubtful_ms = at_ms
            return False
        if at_ms > self.now_ms:
            self.now_ms = at_ms
            return True
        return doubtful_ms is not None and at_ms == self.now_ms

    @property
    def heard_ms(self) -> int | None:
        """The newest tick that may be true, in force or not yet: what "an hour ahead" is measured from."""
        return self.now_ms if self._doubtful_ms is None else self._doubtful_ms
