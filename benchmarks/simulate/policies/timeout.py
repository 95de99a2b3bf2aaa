"""Fixed timeout: a batch goes when it is full or its head has waited for so long. Triton, TF Serving, Mosec."""

from __future__ import annotations

from benchmarks.simulate.latency import ROUNDING_S, rows_within
from benchmarks.simulate.policy import Decision, MakePolicy, Queue, Setting

DELAY_SHARES = (0.0, 0.125, 0.25, 0.5)  # of the budget; with two caps each, the eight that a careful user tries


class Timeout:
    def __init__(self, delay_s: float, batch_max: int) -> None:
        self._delay_s = delay_s
        self._batch_max = batch_max

    def decide(self, queue: Queue, now: float) -> Decision:
        waiting = queue.tail - queue.head
        due = queue.arrivals[queue.head] + self._delay_s
        if waiting >= self._batch_max or now >= due - ROUNDING_S:
            return Decision(0, min(waiting, self._batch_max))
        return Decision(0, 0, due)


def timeout(delay_share: float, half_cap: bool = False) -> MakePolicy:
    """`half_cap`: batches that take no more than half the budget, so that a request may wait for one and be in one."""

    def make(setting: Setting) -> Timeout:
        cap = setting.batch_max
        if half_cap:
            cap = max(1, rows_within(setting.table, setting.budget_s / 2, cap))
        return Timeout(delay_share * setting.budget_s, cap)

    return make
