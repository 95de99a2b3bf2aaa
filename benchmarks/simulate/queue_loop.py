"""The event loop for a `Policy`: one queue, N workers, a virtual clock. Work per batch, not per request."""

from __future__ import annotations

from bisect import bisect_right
from heapq import heappop, heappush
from math import inf

from benchmarks.simulate.latency import ROUNDING_S, Service
from benchmarks.simulate.outcome import Batch, Outcome
from benchmarks.simulate.policy import Observer, Policy, Queue


class QueueLoop:
    """Runs in pieces, so that a router can look at several of them while it deals out arrivals."""

    def __init__(self, policy: Policy, arrivals: list[float], budget_s: float, service: Service, workers: int) -> None:
        self.outcome = Outcome(arrivals, budget_s)
        self.misses = 0
        self.queue = Queue(arrivals, idle=workers)
        self._policy = policy
        self._observer = policy if isinstance(policy, Observer) else None
        self._service = service
        self._idle = list(range(workers - 1, -1, -1))
        self._ends: list[tuple[float, int, int, float]] = []  # (finish, worker, rows, seconds)
        self._wake_at = inf

    def advance(self, until: float = inf, misses_max: float = inf) -> None:
        """All that happens before `until`. Stops early once more than `misses_max` requests have missed."""
        arrivals, queue = self.queue.arrivals, self.queue
        while self.misses <= misses_max:
            now = self._next_event()
            if now >= until:
                return
            while self._ends and self._ends[0][0] <= now:
                self._finish(now)
            queue.tail = bisect_right(arrivals, now, queue.tail)
            self._wake_at = inf
            while queue.idle and queue.head < queue.tail:
                if not self._decide(now):
                    break

    def outstanding(self, now: float) -> int:
        """Requests that wait or run at `now`, which is no earlier than anything that has happened yet."""
        self.advance(now)
        return len(self.queue.arrivals) - self.queue.head + sum(rows for _, _, rows, _ in self._ends)

    def _next_event(self) -> float:
        queue = self.queue
        end = self._ends[0][0] if self._ends else inf
        if not queue.idle:
            return end
        arrival = queue.arrivals[queue.tail] if queue.tail < len(queue.arrivals) else inf
        return min(end, arrival, self._wake_at)

    def _decide(self, now: float) -> bool:
        queue = self.queue
        skip, take, self._wake_at = self._policy.decide(queue, now)
        if skip:
            self.outcome.drops.append((now, range(queue.head, queue.head + skip)))
            queue.head += skip
            self.misses += skip
        if take:
            self._start(take, now)
        elif self._wake_at <= now and queue.head < queue.tail:
            raise RuntimeError(f"{type(self._policy).__name__} wants to be woken at {self._wake_at}, it is {now}")
        return take > 0

    def _start(self, rows: int, now: float) -> None:
        queue = self.queue
        head = queue.head
        queue.head = end = head + rows
        queue.idle -= 1
        worker = self._idle.pop()
        seconds = self._service(rows, now)
        finish = now + seconds
        heappush(self._ends, (finish, worker, rows, seconds))
        self.outcome.batches.append(Batch(worker, now, finish, range(head, end)))
        oldest = finish - self.outcome.budget_s - ROUNDING_S
        if queue.arrivals[head] < oldest:
            self.misses += bisect_right(queue.arrivals, oldest, head, end) - head

    def _finish(self, now: float) -> None:
        _, worker, rows, seconds = heappop(self._ends)
        self._idle.append(worker)
        self.queue.idle += 1
        if self._observer is not None:
            self._observer.finished(rows, seconds, now)
