"""What the recent arrivals of one key say about those to come: rows per second and the usual latency budget."""

from collections import deque
from math import inf, isfinite

BUDGETS = 16
WINDOW_S = 1.0


class Arrivals:
    """Rows are counted in two windows, the current and the one before, which bounds both memory and staleness."""

    __slots__ = ("_before", "_begin", "_budgets", "_count", "window_s")

    def __init__(self) -> None:
        self.window_s = WINDOW_S
        self._begin = -inf
        self._count = 0
        self._before = 0
        self._budgets: deque[float] = deque(maxlen=BUDGETS)

    def add(self, rows: int, budget_s: float, now: float) -> None:
        if now - self._begin >= self.window_s:
            self._turn(now)
        self._count += rows
        self._budgets.append(budget_s)

    def rate(self, now: float) -> float:
        """Rows per second over the last one to two windows."""
        if now - self._begin >= self.window_s:
            self._turn(now)
        passed = (now - self._begin) / self.window_s
        return (self._count + self._before * (1.0 - passed)) / self.window_s

    def budget_s(self) -> float:
        """Median of the last budgets; inf where most have none."""
        ordered = sorted(self._budgets)
        return ordered[len(ordered) // 2] if ordered else inf

    def _turn(self, now: float) -> None:
        windows = (now - self._begin) // self.window_s if isfinite(self._begin) else inf
        self._before = self._count if windows < 2 else 0
        self._begin = self._begin + self.window_s if windows < 2 else now
        self._count = 0
