"""Where a worker may die, by name. The table in docs/inventory.md says what the next one finds at each; tests kill it there."""

from __future__ import annotations

import enum
from collections.abc import Callable


class CrashPoint(enum.StrEnum):
    """A moment between two effects. What was written until then stays; what follows did not happen."""

    BEFORE_APPLY = "before_apply"
    AFTER_APPLY = "after_apply"
    AFTER_PUBLISH = "after_publish"
    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"
    AFTER_FENCE = "after_fence"
    AFTER_DRAIN = "after_drain"
    BEFORE_BUILD = "before_build"
    AFTER_BUILD = "after_build"


Passing = Callable[[CrashPoint], None]


def passed(point: CrashPoint) -> None:
    """What happens at a point in service: nothing."""
    del point
