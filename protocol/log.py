"""How a child's log lines look: the event, then its ids as `name=value`, on one line but for tracebacks.

The supervisor, which reads them, adds time and process. Called by the mains of worker and API server.
"""

from __future__ import annotations

import logging

_VALUE_CHARS_MAX = 500
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class EventFormatter(logging.Formatter):
    """`INFO worker ready runner=digits index=0`; what a caller gave as `extra` is shown, long values cut."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        extra = [f" {name}={_shown(value)}" for name, value in record.__dict__.items() if name not in _KNOWN]
        return super().formatMessage(record) + "".join(extra)


def configure() -> None:
    """Log to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(EventFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _shown(value: object) -> str:
    text = str(value).replace("\n", " ")
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 3] + "..."
