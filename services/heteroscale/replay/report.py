"""One page about an incident: what was demanded, decided and placed, on one time axis, with the state and reason at any instant.

The page is a single file: data, style and script are inside it, and nothing is fetched.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.fleet import FleetNode, NodeState
from heteroscale.contracts.names import ServiceName
from heteroscale.contracts.placements import InstanceState
from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.units import instant_text
from heteroscale.replay import figures, whatif
from heteroscale.replay.explain import kcat
from heteroscale.replay.recorded import Recorded
from heteroscale.replay.store import place_of
from heteroscale.replay.whatif import Answer, Case, Step, Watch

TEMPLATE = "page.html"
MARK = "/*DATA*/null"


class Pages:
    """The steps of every service, in the short form that a page holds, as a course goes by."""

    def __init__(self, recorded: Recorded, *, compared: bool) -> None:
        self._recorded = recorded
        self._compared = compared
        self.steps: dict[ServiceName, list[dict[str, Any]]] = {}
        self.last: dict[ServiceName, ServiceSpec] = {}

    def __call__(self, step: Step) -> None:
        """One more."""
        service = step.recorded.service
        found = self._recorded.decision_of(service, step.recorded.id)
        self.steps.setdefault(service, []).append(_step(step, "" if found is None else found.place, compared=self._compared))
        self.last[service] = step.spec


def page(recorded: Recorded, case: Case, *, title: str, watch: Watch = lambda _step: None) -> tuple[str, list[Answer]]:
    """The page, and what the case came to. `title` names the case; empty: there is none, and the page holds the recorded course.

    `watch` hears of each step.
    """
    manifest = recorded.bundle.manifest
    pages = Pages(recorded, compared=bool(title))

    def see(step: Step) -> None:
        pages(step)
        watch(step)

    answers = whatif.ask(recorded, case, see)
    document = {
        "title": title,
        "services": [_service(recorded, answer, pages, compared=bool(title)) for answer in answers if answer.decisions],
        "window": {"from": manifest.window.from_ms, "to": manifest.window.to_ms},
        "prefix": manifest.prefix,
        "faults": _faults(recorded),
    }
    payload = msgspec.json.encode(document).decode().replace("<", "\\u003c")
    template = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return template.replace(MARK, payload), answers


def _service(recorded: Recorded, answer: Answer, pages: Pages, *, compared: bool) -> dict[str, Any]:
    spec = pages.last[answer.service]
    summary = {name: value for name, value in msgspec.to_builtins(answer).items() if name != "changed"}
    return {
        "name": answer.service,
        "roles": sorted(spec.roles),
        "signal": _signal_name(spec),
        "steps": pages.steps[answer.service],
        "placements": _placements(recorded, answer.service),
        "horizon": answer.horizon_ms if compared else None,
        "summary": summary if compared else None,
    }


def _signal_name(spec: ServiceSpec) -> str:
    signal = spec.signals[0]
    return f"{signal.metric.value} of {signal.role}"


def _step(step: Step, place: str, *, compared: bool) -> dict[str, Any]:
    decision, window, spec = step.recorded, step.window, step.spec
    signal = spec.signals[0]
    seen = window.roles.get(signal.role or "")
    value = None if seen is None else getattr(seen, signal.metric.value, None)
    count = decision.before.get(signal.role or "")
    return {
        "at": decision.at_ms,
        "id": decision.id,
        "action": decision.action.value,
        "reason": decision.reason.value,
        "value": value,
        "capacity": None if count is None or signal.target is None else count.replicas * signal.target,
        "before": msgspec.to_builtins(decision.before),
        "after": msgspec.to_builtins(decision.after),
        "seen": {role: _seen(one) for role, one in sorted(window.roles.items())},
        "guards": _guards(spec, window),
        "stages": [
            [stage.stage.value, stage.value, None if stage.reason is None else stage.reason.value, stage.detail]
            for stage in decision.stages
        ],
        "place": place,
        "kcat": kcat(place) if place else "",
        "other": _other(step) if compared else None,
    }


def _other(step: Step) -> dict[str, Any] | None:
    if step.other is None:
        return None
    return {
        "action": step.other.action.value,
        "reason": step.other.reason.value,
        "after": msgspec.to_builtins(step.other.after),
        "exact": step.exact,
        "serving": {role: seen.instances.serving for role, seen in sorted(step.other_window.roles.items())},
    }


def _seen(role: RoleSignal) -> dict[str, Any]:
    return {**msgspec.to_builtins(role.instances), "coverage": role.coverage}


def _guards(spec: ServiceSpec, window: SignalWindow) -> list[dict[str, Any]]:
    """Each guard's latency against its moderate threshold: the worst role's, or its own."""
    found = []
    for guard in spec.guards:
        values = [
            getattr(quantiles, guard.quantile)
            for role, seen in sorted(window.roles.items())
            if guard.role in {None, role}
            and (quantiles := getattr(seen, f"{guard.latency}_ms")) is not None
            and quantiles.count >= figures.OBSERVATIONS_MIN
        ]
        worst = max(values, default=None)
        ratio = None if worst is None or not guard.moderate.ms else worst / guard.moderate.ms
        name = f"{guard.latency} {guard.quantile}"
        found.append({"name": name, "ms": worst, "ratio": ratio, "severe": guard.severe.ms / max(1, guard.moderate.ms)})
    return found


def _placements(recorded: Recorded, service: ServiceName) -> list[dict[str, Any]]:
    found = []
    for one in recorded.placements_of(service):
        placement = one.message
        if placement.dry_run:
            continue
        states: dict[str, dict[str, int]] = {}
        for group in placement.groups:
            for placed in group.instances:
                of_role = states.setdefault(placed.role, {})
                of_role[placed.state.value] = of_role.get(placed.state.value, 0) + 1
        failed = [change.instance for change in placement.changes if change.to is InstanceState.FAILED]
        found.append(
            {
                "at": placement.at_ms,
                "status": placement.status.value,
                "states": states,
                "changes": len(placement.changes),
                "failed": failed,
                "shortfall": placement.shortfall,
                "groups": len(placement.groups),
                "degraded": sum(group.degraded for group in placement.groups),
                "place": one.place,
            }
        )
    return found


def _faults(recorded: Recorded) -> list[dict[str, Any]]:
    """Changes of nodes away from ready and back, inside the bundle's window."""
    span = recorded.bundle.manifest.window
    standing: dict[str, NodeState] = {}
    found: list[dict[str, Any]] = []
    for _, record in recorded.fleet():
        if record.value is None:
            continue
        try:
            node = codec.decode(FleetNode, record.value)
        except Rejected:
            continue
        before = standing.get(node.node, NodeState.READY)
        standing[node.node] = node.state
        if before is not node.state and span.from_ms <= record.timestamp_ms <= span.to_ms:
            found.append(
                {"at": record.timestamp_ms, "node": node.node, "s1": node.at.s1, "state": node.state.value, "place": place_of(record),
                 "text": instant_text(record.timestamp_ms)}
            )  # fmt: skip
    return found
