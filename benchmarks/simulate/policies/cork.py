"""BentoML's CORK: heads leave until the whole queue fits in one batch, and a batch is held while holding seems cheap.

The rule of its dispatcher, with the true latency table or with its own fitted line, and three ways to hold: asleep for
1 ms at a time, woken at the very time at which the condition turns (and by arrivals), or never.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from math import inf

import numpy as np

from benchmarks.simulate.latency import ROUNDING_S
from benchmarks.simulate.policy import Decision, MakePolicy, Queue, Setting

BATCHES = 50
TICK_S = 0.001
CORK_SHARE = 0.95
REFIT_S = 5.0
ROW_S_MIN = 1e-6
WARM_UP_ROWS = (1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3)


class Hold(Enum):
    POLL = TICK_S
    EVENTS = 0.0
    NEVER = inf


class Cork:
    """`hold.value`: how long it sleeps at a time, which is part of its estimate of what holding costs."""

    def __init__(self, setting: Setting, hold: Hold) -> None:
        self._setting = setting
        self._tick_s = hold.value
        self._table = setting.table
        self._row_s = setting.table[2] - setting.table[1]
        self._waits: deque[float] = deque(maxlen=BATCHES)
        self._asleep_until = 0.0

    def decide(self, queue: Queue, now: float) -> Decision:
        if now < self._asleep_until - ROUNDING_S:
            return Decision(0, 0, self._asleep_until)
        skip = self._skip(queue, now)
        head = queue.head + skip
        waiting = queue.tail - head
        hold_s = self._hold_s(waiting, now - queue.arrivals[queue.tail - 1])
        if hold_s > ROUNDING_S:
            sleep_s = self._tick_s or hold_s
            self._asleep_until = now + self._tick_s
            return Decision(skip, 0, now + sleep_s)
        self._waits.append(now - queue.arrivals[head])
        return Decision(skip, min(waiting, self._setting.batch_max))

    def _skip(self, queue: Queue, now: float) -> int:
        """The last one is always kept."""
        arrivals, table = queue.arrivals, self._table
        oldest = now - self._setting.budget_s
        head = queue.head
        while queue.tail - head > 1 and arrivals[head] <= oldest + table[min(queue.tail - head, len(table) - 1)]:
            head += 1
        return head - queue.head

    def _hold_s(self, waiting: int, tail_age_s: float) -> float:
        """How long the corking condition will hold if nothing arrives."""
        if waiting >= self._setting.batch_max or not self._waits:
            return 0.0
        wait_s = sum(self._waits) / len(self._waits)
        return CORK_SHARE * wait_s / waiting - self._tick_s - self._row_s - tail_age_s


class FittedCork(Cork):
    """Its latency table is a line through its last 50 batches, fitted anew at most every 5 s."""

    def __init__(self, setting: Setting, hold: Hold) -> None:
        super().__init__(setting, hold)
        self._samples = deque([(rows, setting.table[rows]) for rows in WARM_UP_ROWS], maxlen=BATCHES)
        self._fit(0.0)

    def finished(self, rows: int, seconds: float, now: float) -> None:
        self._samples.append((rows, seconds))
        if now >= self._refit_at:
            self._fit(now)

    def _fit(self, now: float) -> None:
        rows, seconds = np.array(self._samples).T
        if rows.min() < rows.max():
            row_s, batch_s = np.polyfit(rows, seconds, 1)
            self._row_s = max(float(row_s), ROW_S_MIN)
            self._table = (np.arange(len(self._setting.table)) * self._row_s + max(float(batch_s), 0.0)).tolist()
        self._refit_at = now + REFIT_S


def cork(hold: Hold) -> MakePolicy:
    return lambda setting: Cork(setting, hold)


def fitted_cork(hold: Hold) -> MakePolicy:
    return lambda setting: FittedCork(setting, hold)
