"""Structured logs on standard error: one JSON object a line, the request id wherever there is one."""

from __future__ import annotations

import json
import logging
import sys
import time

import structlog

QUIET = ("faust", "mode", "aiokafka", "aiohttp", "kafka")
REPEAT_S = 10.0


class OncePer(logging.Filter):
    """Lets one line of a kind through in `period_s`: a client without a broker writes thousands a second."""

    def __init__(self, period_s: float = REPEAT_S) -> None:
        super().__init__()
        self._period_s = period_s
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, str(record.msg)[:80])
        now = time.monotonic()
        if now - self._last.get(kind, -self._period_s) < self._period_s:
            return False
        self._last[kind] = now
        return True


class JsonLine(logging.Formatter):
    """A library's line as one JSON object, whatever stands in it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"level": record.levelname.lower(), "logger": record.name, "event": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logs(level: str = "INFO") -> None:
    """Send our events and libraries' warnings to standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(OncePer())
    handler.setFormatter(JsonLine())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR if name in {"faust", "mode"} else logging.WARNING)
