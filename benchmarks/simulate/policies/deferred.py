"""Deferred: the largest batch that meets the head's deadline waits until one more would not. After Symphony.

Chen et al., Symphony: Optimized DNN Model Serving using Deferred Batch Scheduling, 2023.
"""

from __future__ import annotations

from benchmarks.simulate.latency import ROUNDING_S, rows_within
from benchmarks.simulate.policies.expiry import hopeless
from benchmarks.simulate.policy import Decision, Queue, Setting


class Deferred:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def decide(self, queue: Queue, now: float) -> Decision:
        setting = self._setting
        skip = hopeless(setting, queue, now)
        head = queue.head + skip
        waiting = min(queue.tail - head, setting.batch_max)
        if not waiting:
            return Decision(skip)
        deadline = queue.arrivals[head] + setting.budget_s
        rows = rows_within(setting.table, deadline - now, waiting)
        opens = deadline - setting.table[rows + 1]
        if rows == setting.batch_max or now >= opens - ROUNDING_S:
            return Decision(skip, rows)
        return Decision(skip, 0, opens)
