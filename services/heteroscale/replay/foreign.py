"""The far end of `replay --policy PATH`: run as a script, it imports the checkout it is given and answers a line a question.

Knows only what every version of the controller has had: contracts, `controller.step`, `from_record`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Questions on stdin, answers on stdout, until stdin ends. What the checkout itself prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    there: _There | None = None
    for line in sys.stdin:
        try:
            there = there or _There(sys.argv[1])
            answer = there.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked must hear of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class _There:
    """One service under the other controller."""

    def __init__(self, root: str) -> None:
        sys.path.insert(0, root)
        from heteroscale.contracts import codec  # noqa: PLC0415 - the checkout's own, once sys.path names it
        from heteroscale.contracts.decision_state import DecisionState  # noqa: PLC0415
        from heteroscale.contracts.placements import Placement  # noqa: PLC0415
        from heteroscale.contracts.signals import SignalWindow  # noqa: PLC0415
        from heteroscale.contracts.spec import ServiceSpec  # noqa: PLC0415
        from heteroscale.decision import controller  # noqa: PLC0415

        strange = sorted({str(one.__file__) for one in (codec, controller) if not Path(str(one.__file__)).is_relative_to(root)})
        if strange:
            raise ImportError(f"the checkout is not whole: {', '.join(strange)} would have been used")
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
