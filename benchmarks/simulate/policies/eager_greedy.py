"""Eager greedy: all that waits goes at once, if only its deadline has not passed. Triton with delay 0 and a timeout."""

from __future__ import annotations

from benchmarks.simulate.policies.expiry import expired
from benchmarks.simulate.policy import Decision, Queue, Setting


class EagerGreedy:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def decide(self, queue: Queue, now: float) -> Decision:
        skip = expired(self._setting, queue, now)
        return Decision(skip, min(queue.tail - queue.head - skip, self._setting.batch_max))
