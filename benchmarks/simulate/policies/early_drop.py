"""Nexus early drop: a window of the target size slides over the queue to the first head whose deadline allows it.

Shen et al., Nexus: A GPU Cluster Engine for Accelerating DNN-Based Video Analysis, SOSP 2019, section 4.3.
"""

from __future__ import annotations

from benchmarks.simulate.latency import ROUNDING_S, rows_within
from benchmarks.simulate.policy import Decision, Queue, Setting


class EarlyDrop:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._target = max(1, rows_within(setting.table, setting.budget_s / 2, setting.batch_max))

    def decide(self, queue: Queue, now: float) -> Decision:
        setting = self._setting
        for head in range(queue.head, queue.tail):
            rows = min(queue.tail - head, self._target)
            if now + setting.table[rows] <= queue.arrivals[head] + setting.budget_s + ROUNDING_S:
                return Decision(head - queue.head, rows)
        return Decision(queue.tail - queue.head)
