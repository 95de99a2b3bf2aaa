"""Rolls a choice of batch a few dispatches forward, in plain numbers, to see what it costs the requests behind.

Positions count rows, from the head of the queue; slacks are the seconds from the start of the batch in question until
the deadline, less the way back. Behind the queue arrivals go on evenly spaced at the measured rate.
"""

from collections.abc import Sequence
from typing import NamedTuple

from paceline.runner.dispatcher.curve import Curve

DISPATCHES = 3


class Yield(NamedTuple):
    """Rows served in time, and the seconds that the worker took for them."""

    rows: int
    seconds: float


class LookAhead:
    """The queue as it will be: `slacks` of the first rows, `known` rows in all, then arrivals at `rate` rows/s."""

    def __init__(
        self, slacks: Sequence[float], known: int, curve: Curve, target: int, rate: float, budget_s: float
    ) -> None:
        self._slacks = slacks
        self._known = known
        self._curve = curve
        self._target = target
        self._rate = rate
        self._budget_s = budget_s

    def roll(self, skip: int, rows: int, full_fit: bool) -> Yield:
        """Serve `rows` behind the first `skip`, then go on by one of two rules: full fit drops heads until all that
        waits (up to the target) meets the head's deadline; deadline fit cuts the batch to what the head allows."""
        seconds = self._curve.seconds(rows)
        served = rows
        head = skip + rows
        for _ in range(DISPATCHES - 1):
            waiting = self._known + int(self._rate * seconds) - head
            if waiting <= 0:
                if self._rate <= 0:
                    break
                seconds = max(seconds, (head - self._known + 1) / self._rate)
                waiting = 1
            dropped = self._dropped(head, waiting, seconds, full_fit)
            head += dropped
            if dropped == waiting:
                continue
            rows = min(waiting - dropped, self._target)
            if not full_fit:
                rows = max(1, self._curve.rows_within(self._slack(head) - seconds, rows))
            head += rows
            served += rows
            seconds += self._curve.seconds(rows)
        return Yield(served, seconds)

    def _dropped(self, head: int, waiting: int, at: float, full_fit: bool) -> int:
        """The fewest heads to drop: fitting gets easier with every drop, so halving finds it."""
        if self._fits(head, waiting, at, full_fit):
            return 0
        low, high = 0, waiting  # low does not fit; dropping all always does
        while high - low > 1:
            middle = (low + high) // 2
            if self._fits(head + middle, waiting - middle, at, full_fit):
                high = middle
            else:
                low = middle
        return high

    def _fits(self, head: int, waiting: int, at: float, full_fit: bool) -> bool:
        rows = min(waiting, self._target) if full_fit else 1
        return at + self._curve.seconds(rows) <= self._slack(head)

    def _slack(self, position: int) -> float:
        slacks = self._slacks
        if position < len(slacks):
            return slacks[position]
        if position < self._known:
            return slacks[-1]
        return (position - self._known + 1) / self._rate + self._budget_s
