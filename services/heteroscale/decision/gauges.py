"""Metrics of the decision service, and the counts it tells over HTTP for people's own actuators."""

from __future__ import annotations

from collections.abc import Mapping

from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.decision.controller import ServiceState
from heteroscale.runtime import metrics
from heteroscale.runtime.metrics import Metrics

FLAP_WINDOW_MS = 3_600_000


class Gauges:
    """One registry's decision section."""

    def __init__(self, registry: Metrics) -> None:
        self._registry = registry
        self._turns: dict[str, list[int]] = {}
        self._holding: dict[str, str] = {}

    def decided(self, state: ServiceState, decision: Decision) -> None:
        """One decision was published, and `state` is the one after it."""
        service, registry = decision.service, self._registry
        registry.add(metrics.DECISIONS, 1, service=service, action=decision.action.value, reason=decision.reason.value)
        for role, count in decision.after.items():
            registry.set(metrics.DESIRED_REPLICAS, count.replicas, service=service, role=role)
            registry.set(metrics.DRAINING_REPLICAS, count.draining, service=service, role=role)
        for role, found in decision.before.items():
            registry.set(metrics.SERVING_REPLICAS, found.serving, service=service, role=role)
            registry.set(metrics.PENDING_REPLICAS, found.pending, service=service, role=role)
        self._hold(state, decision)
        counters = state.law.counters
        registry.set(metrics.GUARD_EPISODES, counters.guard_episodes, service=service)
        registry.set(metrics.DIRECTION_CHANGES_HOUR, self._flaps(service, counters.direction_changes, decision.at_ms), service=service)

    def forget(self, service: str, state: ServiceState) -> None:
        """The service went away: its gauges would only mislead."""
        reason = self._holding.pop(service, None)
        if reason is not None:
            self._registry.forget(metrics.HOLD_AGE, service=service, reason=reason)
        self._turns.pop(service, None)
        for role in state.law.roles:
            for gauge in (metrics.DESIRED_REPLICAS, metrics.DRAINING_REPLICAS, metrics.SERVING_REPLICAS, metrics.PENDING_REPLICAS):
                self._registry.forget(gauge, service=service, role=role)

    def _hold(self, state: ServiceState, decision: Decision) -> None:
        """The age of the running hold, under its reason alone."""
        service = decision.service
        reason = decision.reason.value if decision.action is Action.HOLD else None
        before = self._holding.get(service)
        if before is not None and before != reason:
            self._registry.forget(metrics.HOLD_AGE, service=service, reason=before)
            del self._holding[service]
        if reason is not None:
            since_ms = state.law.hold_since_ms if state.law.hold_since_ms is not None else decision.at_ms
            self._registry.set(metrics.HOLD_AGE, (decision.at_ms - since_ms) / 1_000, service=service, reason=reason)
            self._holding[service] = reason

    def _flaps(self, service: str, total: int, at_ms: int) -> int:
        """Direction changes of the last hour of window time, as far as this process has seen them."""
        turns = self._turns.setdefault(service, [])
        known = turns[0] if turns else total
        seen = [at for at in turns[1:] if at > at_ms - FLAP_WINDOW_MS]
        self._turns[service] = [total, *seen, *([at_ms] * max(0, total - known))]
        return len(self._turns[service]) - 1


def desired(states: Mapping[str, ServiceState], query: Mapping[str, str]) -> object:
    """`/desired`: counts of all services, of one (`?service=`), or of one role (`&role=`).

    With both, `desired` is a plain number, which KEDA's metrics-api scaler reads with `valueLocation: desired`.
    Raises Rejected for a service or a role that is not there.
    """
    services = {name: _counts(state.decision) for name, state in sorted(states.items()) if state.decision is not None}
    service, role = query.get("service"), query.get("role")
    if service is None:
        return {"services": services}
    if service not in services:
        raise Rejected("unknown_service", f"this worker decides {', '.join(services) or 'nothing yet'}", service)
    found = services[service]
    if role is None:
        return {"service": service, **found}
    roles = found["roles"]
    if not isinstance(roles, dict) or role not in roles:
        raise Rejected("unknown_role", f"{service} has no role {role}", role)
    return {"service": service, "role": role, **roles[role]}


def _counts(decision: Decision) -> dict[str, object]:
    return {
        "at_ms": decision.at_ms,
        "decision_id": decision.id,
        "mode": decision.mode.value,
        "action": decision.action.value,
        "reason": decision.reason.value,
        "roles": {
            role: {
                "desired": count.replicas,
                "draining": count.draining,
                "serving": decision.before[role].serving if role in decision.before else 0,
            }
            for role, count in decision.after.items()
        },
    }
