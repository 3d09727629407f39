"""Who decides in a counterfactual: this build's controller, or the one of another checkout in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision import controller
from heteroscale.decision.controller import ServiceState, Tombstone
from heteroscale.replay.decision_stage import source_of, with_spec

END_WITHIN_S = 10
SCRIPT = Path(__file__).with_name("foreign.py")


class Decided(NamedTuple):
    """What a window led to."""

    decision: Decision | None
    command: Command | None


class Decider(Protocol):
    """One service's decisions, record by record."""

    def begin(self, state: ServiceState) -> None:
        """Start from a state."""
        ...

    def learn(self, spec: ServiceSpec | None, record: Record | None) -> None:
        """A revision, or a tombstone (null)."""
        ...

    def place(self, placement: Placement, record: Record | None) -> None:
        """A Placement; without a record a simulated one."""
        ...

    def decide(self, window: SignalWindow, record: Record | None) -> Decided:
        """A window; without a record a simulated one."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Ours:
    """The controller of this build."""

    def __init__(self) -> None:
        self.state = ServiceState("")

    def begin(self, state: ServiceState) -> None:
        """Start from a state."""
        self.state = state

    def learn(self, spec: ServiceSpec | None, record: Record | None) -> None:
        """A revision, or a tombstone."""
        if record is None:
            self.state, _ = controller.step(self.state, Tombstone(self.state.service) if spec is None else spec)
        else:
            self.state = with_spec(self.state, (record, spec))

    def place(self, placement: Placement, record: Record | None) -> None:
        """A Placement."""
        self.state, _ = controller.step(self.state, placement, None if record is None else source_of(record))

    def decide(self, window: SignalWindow, record: Record | None) -> Decided:
        """A window."""
        self.state, effects = controller.step(self.state, window, None if record is None else source_of(record))
        return Decided(effects.decision, effects.command)

    def close(self) -> None:
        """Nothing to let go."""


class Theirs:
    """The controller of another checkout, spoken to over a pipe (`foreign.py` has the other end)."""

    def __init__(self, checkout: Path) -> None:
        root = next((one for one in (checkout / "services", checkout) if (one / "heteroscale" / "decision").is_dir()), None)
        if root is None:
            raise Rejected("no_checkout", "holds no heteroscale (neither services/heteroscale nor heteroscale)", str(checkout))
        self._name = str(checkout)
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT), str(root.resolve())], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            self.policy_version = int(self._ask({"kind": "hello"})["policy_version"])
        except BaseException:
            self.close()
            raise

    def begin(self, state: ServiceState) -> None:
        """Start from a state."""
        spec = None if state.spec is None else codec.encode(state.spec).decode()
        self._ask({"kind": "begin", "service": state.service, "state": codec.encode(state.record()).decode(), "spec": spec})

    def learn(self, spec: ServiceSpec | None, record: Record | None) -> None:
        """A revision, or a tombstone."""
        del record
        self._ask({"kind": "spec", "value": None if spec is None else codec.encode(spec).decode()})

    def place(self, placement: Placement, record: Record | None) -> None:
        """A Placement."""
        self._ask({"kind": "placement", "value": codec.encode(placement).decode(), **_place(record)})

    def decide(self, window: SignalWindow, record: Record | None) -> Decided:
        """A window."""
        answer = self._ask({"kind": "window", "value": codec.encode(window).decode(), **_place(record)})
        decision, command = answer["decision"], answer["command"]
        return Decided(
            None if decision is None else codec.decode(Decision, decision), None if command is None else codec.decode(Command, command)
        )

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        try:
            self._process.wait(timeout=END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - both are pipes
        assert stdout is not None  # noqa: S101
        try:
            stdin.write(msgspec.json.encode(question) + b"\n")
            stdin.flush()
            line = stdout.readline()
        except OSError as error:
            raise Rejected("policy", f"ended early: {error}", self._name) from error
        if not line:
            raise Rejected("policy", f"ended with exit code {self._process.wait(timeout=END_WITHIN_S)}; see its message above", self._name)
        answer: dict[str, Any] = msgspec.json.decode(line)
        if "error" in answer:
            raise Rejected("policy", str(answer["error"]), self._name)
        return answer


def _place(record: Record | None) -> dict[str, object]:
    if record is None:
        return {}
    source = source_of(record)
    return {"at": source.at, "next": source.next_offset}
