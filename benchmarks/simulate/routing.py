"""One queue per worker, as products with a dispatcher per worker have it: a router deals out requests on arrival."""

from __future__ import annotations

import random
from math import inf
from typing import Protocol

from benchmarks.simulate.latency import Service
from benchmarks.simulate.outcome import Batch, Outcome
from benchmarks.simulate.policy import MakePolicy, Setting
from benchmarks.simulate.queue_loop import QueueLoop

CHECK_EVERY = 256  # arrivals between looks at the misses


class Router(Protocol):
    """Says which worker gets the request that arrives at `now`."""

    def route(self, lanes: list[QueueLoop], now: float) -> int: ...


class RoundRobin:
    def __init__(self) -> None:
        self._last = -1

    def route(self, lanes: list[QueueLoop], now: float) -> int:
        self._last = (self._last + 1) % len(lanes)
        return self._last


class TwoChoices:
    """Of two drawn at random the one with fewer requests (Mitzenmacher, 2001)."""

    def __init__(self) -> None:
        self._chance = random.Random("two choices")

    def route(self, lanes: list[QueueLoop], now: float) -> int:
        drawn = self._chance.sample(range(len(lanes)), min(2, len(lanes)))
        return min(drawn, key=lambda worker: lanes[worker].outstanding(now))


class ShortestQueue:
    def route(self, lanes: list[QueueLoop], now: float) -> int:
        outstanding = [lane.outstanding(now) for lane in lanes]
        return outstanding.index(min(outstanding))


def run_routed(
    router: Router,
    make: MakePolicy,
    setting: Setting,
    arrivals: list[float],
    service: Service,
    misses_max: float = inf,
) -> Outcome:
    """`make` builds the policy of each worker. Stops once more than `misses_max` requests have missed."""
    alone = Setting(setting.table, setting.budget_s, 1, setting.batch_max)
    lanes = [QueueLoop(make(alone), [], setting.budget_s, service, 1) for _ in range(setting.workers)]
    numbers: list[list[int]] = [[] for _ in lanes]
    for number, now in enumerate(arrivals):
        worker = router.route(lanes, now)
        lanes[worker].queue.arrivals.append(now)
        numbers[worker].append(number)
        if number % CHECK_EVERY == 0 and sum(lane.misses for lane in lanes) > misses_max:
            break
    for lane in lanes:
        lane.advance()
    return merge([lane.outcome for lane in lanes], numbers, arrivals, setting.budget_s)


def merge(outcomes: list[Outcome], numbers: list[list[int]], arrivals: list[float], budget_s: float) -> Outcome:
    """Of workers that each served the requests `numbers[worker]` of all arrivals."""
    merged = Outcome(arrivals, budget_s)
    for worker, (outcome, own) in enumerate(zip(outcomes, numbers)):
        for batch in outcome.batches:
            merged.batches.append(Batch(worker, batch.start, batch.finish, [own[i] for i in batch.requests]))
        for at, requests in outcome.drops:
            merged.drops.append((at, [own[i] for i in requests]))
    return merged
