"""Clipper's AIMD: the batch cap grows by one while batches meet the budget and shrinks by a tenth when one does not.

Crankshaw et al., Clipper: A Low-Latency Online Prediction Serving System, NSDI 2017, section 4.3.
"""

from __future__ import annotations

from benchmarks.simulate.policies.expiry import expired
from benchmarks.simulate.policy import Decision, Queue, Setting


class Clipper:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._cap = 1.0

    def decide(self, queue: Queue, now: float) -> Decision:
        skip = expired(self._setting, queue, now)
        return Decision(skip, min(queue.tail - queue.head - skip, int(self._cap), self._setting.batch_max))

    def finished(self, rows: int, seconds: float, now: float) -> None:
        if seconds > self._setting.budget_s:
            self._cap = max(1.0, self._cap * 0.9)
        else:
            self._cap += 1
