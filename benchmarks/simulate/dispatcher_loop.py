"""The event loop for Paceline's own dispatcher: the very class that serves, told of every event at its time.

Anything else with its `handle_all(events, now)` plugs in too.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from math import inf
from typing import Protocol

from benchmarks.simulate.latency import ROUNDING_S, Service
from benchmarks.simulate.outcome import Batch, Outcome
from paceline.runner.dispatcher import Action, Arrived, BatchDone, Dispatch, Event, Reject, Tick, WorkerJoined

KEY = "predict"


class Handler(Protocol):
    """What the loop needs of a dispatcher."""

    def handle_all(self, events: Iterable[Event], now: float) -> list[Action]: ...


class DispatcherLoop:
    """Events of one time are told together. Requests are numbered by arrival; a worker is its number."""

    def __init__(
        self, dispatcher: Handler, arrivals: list[float], budget_s: float, service: Service, workers: int
    ) -> None:
        self.outcome = Outcome(arrivals, budget_s)
        self.misses = 0
        self._dispatcher = dispatcher
        self._service = service
        self._ends: list[tuple[float, int, int, float]] = []  # (finish, worker, batch id, seconds)
        self._next = 0
        self._wake_at = inf
        self._tell([WorkerJoined(worker) for worker in range(workers)], 0.0)

    def advance(self, misses_max: float = inf) -> None:
        """To the end, or until more than `misses_max` requests have missed."""
        arrivals = self.outcome.arrivals
        while self.misses <= misses_max:
            arrival = arrivals[self._next] if self._next < len(arrivals) else inf
            end = self._ends[0][0] if self._ends else inf
            now = min(arrival, end, self._wake_at)
            if now == inf:
                return
            self._tell(self._happened(now), now)

    def _happened(self, now: float) -> list[Event]:
        events: list[Event] = []
        arrivals, ends, number = self.outcome.arrivals, self._ends, self._next
        while ends and ends[0][0] <= now:
            _, worker, batch_id, seconds = heappop(ends)
            events.append(BatchDone(worker, batch_id, seconds))
        while number < len(arrivals) and arrivals[number] <= now:
            events.append(Arrived(number, KEY, 1, arrivals[number] + self.outcome.budget_s))
            number += 1
        self._next = number
        return events or [Tick()]

    def _tell(self, events: list[Event], now: float) -> None:
        if now >= self._wake_at:
            self._wake_at = inf
        for action in self._dispatcher.handle_all(events, now):
            if isinstance(action, Dispatch):
                self._start(action, now)
            elif isinstance(action, Reject):
                self.outcome.drops.append((now, (_number(action.request_id),)))
                self.misses += 1
            else:
                self._wake_at = action.time

    def _start(self, dispatch: Dispatch, now: float) -> None:
        seconds = self._service(dispatch.rows, now)
        finish = now + seconds
        worker = _number(dispatch.worker_id)
        requests = [_number(request_id) for request_id in dispatch.request_ids]
        heappush(self._ends, (finish, worker, dispatch.batch_id, seconds))
        self.outcome.batches.append(Batch(worker, now, finish, requests))
        oldest = finish - self.outcome.budget_s - ROUNDING_S
        arrivals = self.outcome.arrivals
        if arrivals[requests[0]] < oldest:
            self.misses += sum(arrivals[number] < oldest for number in requests)


def _number(identity: object) -> int:
    assert isinstance(identity, int)
    return identity
