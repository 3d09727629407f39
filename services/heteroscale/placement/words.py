"""Last words of instances: which of several counts, whose processes have ended, who runs although nobody lists it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.names import InstanceName

ENDED: Final = frozenset({ActuationKind.STOPPED, ActuationKind.FAILED})


def last(word: Actuation, before: Actuation | None) -> Actuation:
    """Which of two words counts: the later one by its own time. At one time an end counts, for a repeated `ready` may come after it."""
    if before is None or word.at_ms > before.at_ms:
        return word
    if word.at_ms < before.at_ms or before.kind in ENDED:
        return before
    return word


def ended(words: Mapping[InstanceName, Actuation]) -> frozenset[InstanceName]:
    """Instances of which no process is left."""
    return frozenset(name for name, word in words.items() if word.kind in ENDED)


def ghosts(words: Mapping[InstanceName, Actuation], listed: Iterable[InstanceName]) -> list[InstanceName]:
    """Instances that were last heard to run although nobody lists them."""
    known = frozenset(listed)
    return sorted(name for name, word in words.items() if word.kind not in ENDED and name not in known)
