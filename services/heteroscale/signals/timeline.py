"""Which spec is in force when, and the window parameters that follow. Pure; all times in milliseconds."""

from __future__ import annotations

from typing import NamedTuple

from heteroscale.contracts.names import RoleName
from heteroscale.contracts.spec import ServiceSpec, WindowSpec


class Parameters(NamedTuple):
    """One revision's window parameters, as integers."""

    size_ms: int
    hop_ms: int
    interval_ms: int
    lateness_ms: int
    silence_ms: int
    forget_ms: int
    revision: int | None
    roles: tuple[RoleName, ...]
    has_spec: bool

    @property
    def horizon_ms(self) -> int:
        """How far behind the newest tick a record can still matter to a window that has not closed.

        A difference that enters a window may begin `forget` before the window's start, so this is `size + forget`, a little
        more than the larger of the two; what is re-read after a restart is then never too little.
        """
        return self.size_ms + self.forget_ms + self.hop_ms + self.interval_ms + 2 * self.lateness_ms


def parameters(spec: ServiceSpec | None) -> Parameters:
    """The parameters a spec states; without one, the defaults."""
    window = WindowSpec() if spec is None else spec.window
    return Parameters(
        size_ms=window.size.ms,
        hop_ms=window.hop.ms,
        interval_ms=window.interval.ms,
        lateness_ms=window.allowed_lateness.ms,
        silence_ms=window.silence.ms,
        forget_ms=window.forget.ms,
        revision=None if spec is None else spec.revision,
        roles=() if spec is None else tuple(sorted(spec.roles)),
        has_spec=spec is not None,
    )


_WITHOUT_SPEC = parameters(None)


class Timeline:
    """The revisions of one service's spec, in the order they were written."""

    def __init__(self) -> None:
        self._revisions: list[tuple[int, Parameters]] = []

    def add(self, applied_at_ms: int, spec: ServiceSpec | None) -> None:
        """Learn a revision, or a tombstone (null), that holds from `applied_at_ms`."""
        self._revisions.append((applied_at_ms, parameters(spec)))

    def at(self, end_ms: int) -> Parameters:
        """The last written revision with applied_at_ms ≤ `end_ms`."""
        for applied_at_ms, found in reversed(self._revisions):
            if applied_at_ms <= end_ms:
                return found
        return _WITHOUT_SPEC

    def next_end(self, after_ms: int) -> int:
        """The first window end above `after_ms`: a multiple of the hop that is in force at that end."""
        edges = sorted({at for at, _ in self._revisions if at > after_ms})
        below = after_ms
        for upper in [*edges, None]:
            hop_ms = self.at(max(below, after_ms)).hop_ms
            floor_ms = max(below - 1, after_ms) if below > after_ms else after_ms
            end_ms = (floor_ms // hop_ms + 1) * hop_ms
            if upper is None or end_ms < upper:
                return end_ms
            below = upper
        raise AssertionError("the last stretch has no upper edge")

    def first_end(self, origin_ms: int) -> int:
        """The first window end whose whole window lies at or after `origin_ms`."""
        end_ms = self.next_end(origin_ms)
        while end_ms - self.at(end_ms).size_ms < origin_ms:
            end_ms = self.next_end(end_ms)
        return end_ms

    def longest(self) -> Parameters:
        """The parameters whose horizon is the longest: what the committed offset must stay behind."""
        return max((found for _, found in self._revisions), key=lambda found: found.horizon_ms, default=_WITHOUT_SPEC)

    @property
    def applied_at_ms(self) -> int | None:
        """Since when the service has had a spec without a break; null if it has none, or was let go."""
        since_ms: int | None = None
        for applied_at_ms, found in self._revisions:
            if not found.has_spec:
                since_ms = None
            elif since_ms is None or applied_at_ms < since_ms:
                since_ms = applied_at_ms
        return since_ms
