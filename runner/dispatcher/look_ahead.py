"""Rolls a choice of batch a few dispatches forward, in plain numbers, to see what it costs the requests behind.

Positions count rows, from the head of the queue; slacks are the seconds from the start of the batch in question until
the deadline, less the way back. Behind the queue arrivals go on evenly spaced at the measured rate. Whichever worker is
free first takes the next batch.
"""

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heapify, heapreplace
from math import ceil, inf
from typing import NamedTuple

from paceline.runner.dispatcher.curve import Curve

DISPATCHES = 3  # of one worker
DISPATCHES_POOL = 4  # of several: in simulation six or ten saw no better


class Yield(NamedTuple):
    """Rows served in time, and the seconds until the workers are free after them, in the mean."""

    rows: int
    seconds: float


class LookAhead:
    """The queue as it will be: `slacks` of the first rows, `known` rows in all, then arrivals at `rate` rows/s."""

    def __init__(
        self,
        slacks: Sequence[float],
        known: int,
        curve: Curve,
        target: int,
        rate: float,
        budget_s: float,
        others: Sequence[float] = (),
    ) -> None:
        """`others`: seconds until each of the other workers is free."""
        self._slacks = slacks
        self._known = known
        self._curve = curve
        self._line = curve.line(target)
        self._target = target
        self._rate = rate
        self._budget_s = budget_s
        self._others = others
        self._dispatches = DISPATCHES_POOL if others else DISPATCHES

    def roll(self, skip: int, rows: int, full_fit: bool) -> Yield:
        """Serve `rows` behind the first `skip`, then go on by one of two rules: full fit drops heads until all that
        waits (up to the target) meets the head's deadline; deadline fit cuts the batch to what the head allows."""
        free = [self._curve.seconds(rows), *self._others]
        heapify(free)
        served = rows
        head = skip + rows
        for _ in range(self._dispatches - 1):
            seconds = free[0]
            waiting = self._known + int(self._rate * seconds) - head
            if waiting <= 0:
                if self._rate <= 0:
                    break
                seconds = max(seconds, (head - self._known + 1) / self._rate)
                waiting = 1
            dropped = self._dropped(head, waiting, seconds, full_fit)
            head += dropped
            if dropped < waiting:
                rows = min(waiting - dropped, self._target)
                if not full_fit:
                    rows = max(1, self._curve.rows_within(self._slack(head) - seconds, rows))
                head += rows
                served += rows
                seconds += self._curve.seconds(rows)
            heapreplace(free, seconds)
        return Yield(served, sum(free) / len(free))

    def _dropped(self, head: int, waiting: int, at: float, full_fit: bool) -> int:
        """The fewest heads to drop: all until the first that allows as many rows as are wanted behind it."""
        target = self._target
        wanted = min(waiting, target) if full_fit else 1
        first = self._first_with(at + self._line[wanted], head)
        if not full_fit or first + wanted <= head + waiting:
            return min(first - head, waiting)
        low, high = waiting - wanted, waiting  # fewer than wanted are left: ever fewer, which fits ever more easily
        while high - low > 1:
            middle = (low + high) // 2
            if at + self._line[waiting - middle] <= self._slack(head + middle):
                high = middle
            else:
                low = middle
        return high

    def _first_with(self, slack_s: float, head: int) -> int:
        """The position of the first request from `head` on that has so much time."""
        slacks, known = self._slacks, self._known
        if head < len(slacks):
            if slacks[head] >= slack_s:
                return head
            position = bisect_left(slacks, slack_s, head + 1)
            if position < len(slacks):
                return position
        if head < known and slacks[-1] >= slack_s:
            return head
        if self._rate <= 0 or self._budget_s == inf:
            return max(head, known)
        return max(head, known, known - 1 + ceil((slack_s - self._budget_s) * self._rate))

    def _slack(self, position: int) -> float:
        slacks = self._slacks
        if position < len(slacks):
            return slacks[position]
        if position < self._known:
            return slacks[-1]
        return (position - self._known + 1) / self._rate + self._budget_s
