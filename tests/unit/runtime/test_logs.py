"""Log lines."""

from __future__ import annotations

import io
import logging

import orjson

from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel


def test_json_lines_carry_event_level_time_and_bound_fields() -> None:
    """One JSON document a line; what is below the level is not written."""
    out = io.StringIO()
    logs.configure(LogFormat.JSON, LogLevel.INFO, out, process="decision")
    logs.logger(service="chat").info("decided", action="hold", replicas={"decode": 4})
    logs.logger().debug("unseen")
    (line,) = [orjson.loads(text) for text in out.getvalue().splitlines()]
    assert ("decided", "info", "decision", "chat", {"decode": 4}) == (
        line["event"],
        line["level"],
        line["process"],
        line["service"],
        line["replicas"],
    )
    assert "timestamp" in line


def test_libraries_speak_in_the_same_form_and_only_of_trouble() -> None:
    """Warnings of libraries are JSON lines too, with the logger's name; their chatter is left out."""
    out = io.StringIO()
    logs.configure(LogFormat.JSON, LogLevel.INFO, out, process="p")
    logging.getLogger("somebody").info("chatter")
    logging.getLogger("aiokafka.conn").error("known to us already")
    logging.getLogger("somebody").warning("trouble %d", 7)
    (line,) = [orjson.loads(text) for text in out.getvalue().splitlines()]
    assert ("trouble 7", "somebody", "warning") == (line["event"], line["logger"], line["level"])


def test_the_console_form_is_for_people() -> None:
    """Columns without colours where there is no terminal; an exception without the values of local variables."""
    out = io.StringIO()
    logs.configure(LogFormat.CONSOLE, LogLevel.INFO, out)
    try:
        _fail("hunter2")
    except ValueError as error:
        logs.logger().critical("failed", exc_info=error)
    assert "failed" in out.getvalue()
    assert "ValueError: no" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert "hunter2" not in out.getvalue().split("Traceback", 1)[1].replace('_fail("hunter2")', "")


def _fail(secret: str) -> None:
    """A frame whose local variable is not to be seen."""
    if secret:
        raise ValueError("no")
