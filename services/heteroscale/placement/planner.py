"""One scheduling cycle: a pure function from a snapshot and the requests to one plan a request."""

from __future__ import annotations

from collections.abc import Sequence

from heteroscale.placement.model import Planned, Request, Snapshot


def plan(snapshot: Snapshot, requests: Sequence[Request]) -> list[Planned]:
    """Plan all requests on one snapshot; the answers come in the order of the requests. Dry runs are planned last and hold nothing."""
    raise NotImplementedError
