"""FLEET.yaml and REQUESTS.yaml of `heteroscale plan`, as what is planned."""

from __future__ import annotations

from typing import NamedTuple

from heteroscale.cli import files, plan_fleet, plan_reading, plan_requests
from heteroscale.cli.plan_fleet import PlanFleet
from heteroscale.cli.plan_requests import PlanRequests
from heteroscale.placement.planning.model import Request, Snapshot


class PlanInput(NamedTuple):
    """What `plan` plans."""

    snapshot: Snapshot
    requests: list[Request]


@files.many_objects()
def load(fleet: str, requests: str) -> PlanInput:
    """Both files. Raises Rejected with place and cure."""
    shape, problems = plan_reading.read(fleet, PlanFleet, "nodes")
    return load_requests(requests, plan_fleet.snapshot(shape, problems))


def load_requests(requests: str, snapshot: Snapshot) -> PlanInput:
    """The requests on a fleet that is known. Raises Rejected with place and cure."""
    asked, problems = plan_reading.read(requests, PlanRequests, "requests")
    return PlanInput(snapshot, plan_requests.requests(asked, snapshot, problems))
