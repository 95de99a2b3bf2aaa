"""Rolls a choice of batch a few dispatches forward, in plain numbers, to see what it costs the requests behind.

Positions count rows, from the head of the queue; slacks are the seconds from the start of the batch in question until
the deadline, less the way back. Behind the queue arrivals go on evenly spaced at the measured rate. Whichever worker is
free first takes the next batch.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from heapq import heapify, heapreplace
from math import ceil, inf
from typing import NamedTuple

from paceline.runner.dispatcher.curve import Curve

DISPATCHES = 2  # of one worker: a third saw no better
DISPATCHES_POOL = 3  # of several: in simulation six or ten saw no better
HOPE = 0.3  # what a row of the batch that could follow counts of one that was served


class Yield(NamedTuple):
    """Rows served in time, with a part of those that could be next, and the seconds until the workers are free after
    them, in the mean."""

    rows: float
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
        self._line = curve.line(target)
        self._target = target
        self._rate = rate
        self._budget_s = budget_s
        self._others = others
        self._dispatches = DISPATCHES_POOL if others else DISPATCHES

    def roll(self, skip: int, rows: int) -> Yield:
        """Serve `rows` behind the first `skip`, then go on by deadline fit: who cannot be served alone is dropped, and
        the batch is what the head then allows."""
        line = self._line
        free = [line[rows], *self._others]
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
            dropped = min(self._first_with(seconds + line[1], head) - head, waiting)
            head += dropped
            if dropped < waiting:
                rows = min(waiting - dropped, self._target)
                rows = max(1, bisect_right(line, self._slack(head) - seconds, 1, rows + 1) - 1)
                head += rows
                served += rows
                seconds += line[rows]
            heapreplace(free, seconds)
        last = self._known + int(self._rate * free[0])
        left = last - self._first_with(free[0] + line[1], head) if last > head else 0
        return Yield(served + HOPE * max(0, min(left, self._target)), sum(free) / len(free))

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
