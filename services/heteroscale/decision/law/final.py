"""Stage 10, final: how far the mode lets the answer go."""

from __future__ import annotations

from heteroscale.contracts.decisions import Reason
from heteroscale.contracts.spec import Mode, ServiceSpec
from heteroscale.decision.law.staged import Facts, Staged

NO_OUT = frozenset({Mode.PAUSED_OUT, Mode.PAUSED, Mode.SUSPENDED})
NO_IN = frozenset({Mode.PAUSED_IN, Mode.PAUSED, Mode.SUSPENDED})


def apply(facts: Facts, value: int, *, grows: bool, shrinks: bool) -> Staged:
    """The count that the mode allows. `grows` and `shrinks` say what the answer does to any role, finalize included."""
    refused = (grows and facts.mode in NO_OUT) or (shrinks and facts.mode in NO_IN)
    if not refused:
        return Staged(value)
    reason = Reason.SUSPENDED if facts.mode is Mode.SUSPENDED else Reason.PAUSED
    return Staged(facts.n, reason, f"mode {facts.mode.value}")


def mode_at(spec: ServiceSpec, at_ms: int) -> Mode:
    """The mode in force: `until` ends the written one, and `then` follows.

    Without `then`, a pause or a suspension ends in active control; anything else ends in shadow, which touches nothing.
    """
    if spec.until is None or at_ms < spec.until.ms:
        return spec.mode
    if spec.then is not None:
        return spec.then
    return Mode.ACTIVE if spec.mode in NO_OUT | NO_IN else Mode.SHADOW
