"""Log lines: structlog, one event a line, with bound fields; JSON for machines, columns for people. Always on stderr."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, TextIO

import orjson
import structlog
from structlog.typing import Processor

from heteroscale.runtime.settings import LogFormat, LogLevel

_LEVELS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}
_NOISY: Final = ("aiokafka", "kafka", "faust", "mode", "asyncio")  # they log what we report as events of our own


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None, **bound: str) -> None:
    """Set up logging of this process; `bound` fields (the process's name) stand on every line."""
    out = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if log_format is LogFormat.JSON:
        rendering: list[Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    else:
        rendering = [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**bound)
    _adopt_stdlib(out, shared, rendering, _LEVELS[level])


def logger(**fields: Any) -> structlog.typing.FilteringBoundLogger:
    """A logger with fields bound to each of its lines."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(**fields)
    return bound


def _to_json(document: Any, **_: Any) -> str:
    return orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _adopt_stdlib(out: TextIO, shared: list[Processor], rendering: list[Processor], level: int) -> None:
    """Lines of libraries take the same form; only warnings and above are kept, and of the talkative ones only what is critical."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
