"""No batching: one request at a time; a head that cannot make it any more is dropped."""

from __future__ import annotations

from benchmarks.simulate.policies.expiry import hopeless
from benchmarks.simulate.policy import Decision, Queue, Setting


class Single:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def decide(self, queue: Queue, now: float) -> Decision:
        skip = hopeless(self._setting, queue, now)
        return Decision(skip, min(1, queue.tail - queue.head - skip))
