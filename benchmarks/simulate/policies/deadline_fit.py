"""Eager deadline fit: at once, the largest batch that meets the head's deadline. Clockwork (OSDI 2020), any size."""

from __future__ import annotations

from benchmarks.simulate.latency import rows_within
from benchmarks.simulate.policies.expiry import hopeless
from benchmarks.simulate.policy import Decision, Queue, Setting


class DeadlineFit:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def decide(self, queue: Queue, now: float) -> Decision:
        setting = self._setting
        skip = hopeless(setting, queue, now)
        head = queue.head + skip
        waiting = min(queue.tail - head, setting.batch_max)
        if not waiting:
            return Decision(skip)
        slack_s = queue.arrivals[head] + setting.budget_s - now
        return Decision(skip, rows_within(setting.table, slack_s, waiting))
