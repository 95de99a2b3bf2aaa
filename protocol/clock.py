"""The clocks: the only place that reads CLOCK_MONOTONIC. Policies take `now` as an argument instead."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seam for time: `now()` in float seconds, `now_ns()` in integer nanoseconds, of one monotonic clock."""

    def now(self) -> float: ...

    def now_ns(self) -> int: ...


class SystemClock:
    """CLOCK_MONOTONIC: the same for all processes of a host, so deadlines travel as absolute values."""

    now = staticmethod(time.monotonic)
    now_ns = staticmethod(time.monotonic_ns)


class VirtualClock:
    """A clock that moves only when told to: tests and simulations."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self._ns = round(start_s * 1e9)

    def now(self) -> float:
        return self._ns / 1e9

    def now_ns(self) -> int:
        return self._ns

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds` >= 0."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back, got {seconds}")
        self._ns += round(seconds * 1e9)
