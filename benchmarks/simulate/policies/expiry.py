"""Which heads are not worth serving any more: several policies drop these."""

from __future__ import annotations

from bisect import bisect_left

from benchmarks.simulate.latency import ROUNDING_S
from benchmarks.simulate.policy import Queue, Setting


def hopeless(setting: Setting, queue: Queue, now: float) -> int:
    """How many heads would miss their deadlines even alone and at once."""
    return _older(queue, now + setting.table[1] - setting.budget_s - ROUNDING_S)


def expired(setting: Setting, queue: Queue, now: float) -> int:
    """How many heads have missed their deadlines already."""
    return _older(queue, now - setting.budget_s - ROUNDING_S)


def _older(queue: Queue, than: float) -> int:
    if queue.arrivals[queue.head] >= than:
        return 0
    return bisect_left(queue.arrivals, than, queue.head, queue.tail) - queue.head
