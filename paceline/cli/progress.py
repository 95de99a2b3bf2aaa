"""How far a long transfer is: one line on a terminal's stderr, rewritten in place; for short ones and pipes nothing."""

from __future__ import annotations

import sys
from types import TracebackType

from paceline.cli.terminal import size
from paceline.protocol.clock import SystemClock

SHOWN_FROM_BYTES = 64 * 1024 * 1024
_EVERY_S = 0.1
_ERASE_LINE = "\r\033[K"


class Meter:
    """A context manager, so that the line is gone before anything else is said."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._next_s = 0.0
        self._is_shown = False

    def show(self, done: int, total: int) -> None:
        """`done` of `total` bytes."""
        now = self._clock.now()
        if total < SHOWN_FROM_BYTES or now < self._next_s or not sys.stderr.isatty():
            return
        self._next_s = now + _EVERY_S
        self._is_shown = True
        sys.stderr.write(f"{_ERASE_LINE}{100 * done // total:3d} %  {size(done)} of {size(total)}")
        sys.stderr.flush()

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            sys.stderr.write(_ERASE_LINE)
            sys.stderr.flush()
