"""What the law would say now under another spec: the newest window and state of a service, judged once on paper."""

from __future__ import annotations

import msgspec

from heteroscale.cli.log_view import LogView
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.decision import controller
from heteroscale.decision.controller import ServiceState


async def decision_under(view: LogView, spec: ServiceSpec) -> Decision | None:
    """The Decision that the newest window, one hop on, would get under `spec`; null without a window. Nothing is written."""
    window = await view.newest(SignalWindow, Topic.SIGNALS, spec.service)
    if window is None:
        return None
    record = await view.newest(DecisionState, Topic.DECISION_STATE, spec.service)
    state = ServiceState(spec.service, spec) if record is None else controller.from_record(record, spec)
    hop_ms = spec.window.hop.ms
    end_ms = max(window.end_ms, state.law.window_end_ms) + hop_ms
    again = msgspec.structs.replace(window, start_ms=end_ms - spec.window.size.ms, end_ms=end_ms, spec_revision=spec.revision)
    _, effects = controller.step(state, again)
    return effects.decision


def sentence(decision: Decision | None) -> str:
    """The decision in one line."""
    if decision is None:
        return "no window yet, so nothing would be decided now"
    after = ", ".join(f"{role} {counts.replicas}" for role, counts in sorted(decision.after.items()))
    return f"would decide now: {decision.action.value} ({decision.reason.value}), {after}"
