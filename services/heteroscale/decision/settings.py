"""Settings of the decision service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta


class DecisionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the decision service joins its group and waits."""

    title: ClassVar[str] = "decision"
    variables: ClassVar[Mapping[str, str]] = {"group": "HETEROSCALE_DECISION_GROUP", "poll_ms": "HETEROSCALE_DECISION_POLL_MS"}

    group: Annotated[str, Meta(min_length=1, description="the consumer group, below the prefix", examples=["decision"])] = "decision"
    poll_ms: Annotated[  # how soon a changed spec or the word to stop is noticed while no window comes in
        int, Meta(ge=10, le=10_000, description="limit of one wait for records, ms", examples=["250"])
    ] = 250
