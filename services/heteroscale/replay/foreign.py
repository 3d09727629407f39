"""The far end of `replay --policy PATH`: run as a script, it imports the checkout it is given and answers a line a question.

Knows only what every version of the controller has had: contracts, `controller.step`, `from_record`.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Questions on stdin, answers on stdout, until stdin ends."""
    sys.path.insert(0, sys.argv[1])
    there = _There()
    for line in sys.stdin:
        try:
            answer = there.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked must hear of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class _There:
    """One service under the other controller."""

    def __init__(self) -> None:
        from heteroscale.contracts import codec  # noqa: PLC0415 - the checkout's own, once sys.path names it
        from heteroscale.contracts.decision_state import DecisionState  # noqa: PLC0415
        from heteroscale.contracts.placements import Placement  # noqa: PLC0415
        from heteroscale.contracts.signals import SignalWindow  # noqa: PLC0415
        from heteroscale.contracts.spec import ServiceSpec  # noqa: PLC0415
        from heteroscale.decision import controller  # noqa: PLC0415

        self._codec: Any = codec
        self._controller: Any = controller
        self._kinds: dict[str, Any] = {"window": SignalWindow, "placement": Placement, "spec": ServiceSpec, "state": DecisionState}
        self._state: Any = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """One question."""
        kind = question["kind"]
        if kind == "hello":
            return {"policy_version": self._controller.POLICY_VERSION}
        if kind == "begin":
            spec = None if question["spec"] is None else self._codec.decode(self._kinds["spec"], question["spec"])
            self._state = self._controller.from_record(self._codec.decode(self._kinds["state"], question["state"]), spec)
            return {}
        if question["value"] is None:
            event = self._controller.Tombstone(self._state.service)
        else:
            event = self._codec.decode(self._kinds[kind], question["value"])
        source = self._controller.Source(question["at"], question["next"]) if "at" in question else None
        self._state, effects = self._controller.step(self._state, event, source)
        return {"decision": self._text(effects.decision), "command": self._text(effects.command)}

    def _text(self, message: Any) -> str | None:
        return None if message is None else self._codec.encode(message).decode()


if __name__ == "__main__":
    main()
