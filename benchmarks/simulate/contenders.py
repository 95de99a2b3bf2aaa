"""Everything that can be measured, by name: policies with one queue or one per worker, and Paceline's dispatcher."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from math import inf
from typing import Protocol

from benchmarks.simulate.dispatcher_loop import DispatcherLoop
from benchmarks.simulate.latency import Service
from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.policies import (
    Clipper,
    DeadlineFit,
    Deferred,
    EagerGreedy,
    EarlyDrop,
    Hold,
    Single,
    cork,
    fitted_cork,
    timeout,
)
from benchmarks.simulate.policies.timeout import DELAY_SHARES
from benchmarks.simulate.policy import MakePolicy, Setting
from benchmarks.simulate.queue_loop import QueueLoop
from benchmarks.simulate.routing import RoundRobin, Router, ShortestQueue, TwoChoices, merge, run_routed
from paceline.runner.dispatcher import Dispatcher, DispatcherConfig

OURS = "Paceline"
LEARNED = "Paceline, learned"
LEARNED_Q90 = "Paceline, learned x q90"
LEARNED_Q98 = "Paceline, learned x q98"
OURS_PER_WORKER = "Paceline per worker"
CORKS = ("CORK 1 ms polls", "CORK event driven")
NAIVE = "eager greedy"
TIMEOUTS = tuple(f"timeout {share} S, cap {cap}" for share in DELAY_SHARES for cap in ("S", "S/2"))


class Contender(Protocol):
    """Serves the arrivals in simulation; may stop once more than `misses_max` requests have missed."""

    def __call__(
        self, setting: Setting, arrivals: list[float], service: Service, misses_max: float = inf
    ) -> Outcome: ...


def central(make: MakePolicy) -> Contender:
    """One queue for all workers."""

    def run(setting: Setting, arrivals: list[float], service: Service, misses_max: float = inf) -> Outcome:
        loop = QueueLoop(make(setting), arrivals, setting.budget_s, service, setting.workers)
        loop.advance(misses_max=misses_max)
        return loop.outcome

    return run


def routed(make_router: Callable[[], Router], make: MakePolicy) -> Contender:
    """A queue per worker."""

    def run(setting: Setting, arrivals: list[float], service: Service, misses_max: float = inf) -> Outcome:
        return run_routed(make_router(), make, setting, arrivals, service, misses_max)

    return run


def paceline(given: bool = True, quantile: float = 0.5) -> Contender:
    """`given`: the dispatcher knows the latency table; else it learns it, from cold."""

    def run(setting: Setting, arrivals: list[float], service: Service, misses_max: float = inf) -> Outcome:
        loop = DispatcherLoop(
            Dispatcher(dispatcher_config(setting, given, quantile)),
            arrivals,
            setting.budget_s,
            service,
            setting.workers,
        )
        loop.advance(misses_max)
        return loop.outcome

    return run


def dispatcher_config(setting: Setting, given: bool = True, quantile: float = 0.5) -> DispatcherConfig:
    table = {rows: setting.table[rows] for rows in range(1, setting.batch_max + 1)} if given else None
    return DispatcherConfig(max_batch_size=setting.batch_max, latency_table=table, quantile=quantile)


def paceline_per_worker(setting: Setting, arrivals: list[float], service: Service, misses_max: float = inf) -> Outcome:
    """A dispatcher in each worker, dealt to in turn: what `dispatch = "worker"` does."""
    alone = Setting(setting.table, setting.budget_s, 1, setting.batch_max)
    numbers = [list(range(worker, len(arrivals), setting.workers)) for worker in range(setting.workers)]
    ours = CONTENDERS[OURS]
    outcomes: list[Outcome] = []
    for own in numbers:
        misses = sum(outcome.dropped() + outcome.late() for outcome in outcomes)
        outcomes.append(ours(alone, [arrivals[number] for number in own], service, misses_max - misses))
    return merge(outcomes, numbers, arrivals, setting.budget_s)


def contender(name: str) -> Contender:
    """By its name here, or `module:attribute` of a policy class (or anything that makes a policy of a Setting).

    Raises KeyError for an unknown name, ImportError or AttributeError for one that is not there.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        return central(getattr(importlib.import_module(module), attribute))
    return CONTENDERS[name]


CONTENDERS: dict[str, Contender] = {
    "none": central(Single),
    "timeout S/4": central(timeout(0.25)),
    **{name: central(timeout(DELAY_SHARES[at // 2], half_cap=at % 2 == 1)) for at, name in enumerate(TIMEOUTS)},
    "Clipper AIMD": central(Clipper),
    NAIVE: central(EagerGreedy),
    "eager fit": central(DeadlineFit),
    "early drop": central(EarlyDrop),
    "deferred": central(Deferred),
    "CORK 1 ms polls": central(cork(Hold.POLL)),
    "CORK event driven": central(cork(Hold.EVENTS)),
    "CORK drop rule": central(cork(Hold.NEVER)),
    "CORK, own line": central(fitted_cork(Hold.POLL)),
    "per-worker rr": routed(RoundRobin, cork(Hold.NEVER)),
    "per-worker po2": routed(TwoChoices, cork(Hold.NEVER)),
    "per-worker jsq": routed(ShortestQueue, cork(Hold.NEVER)),
    OURS: paceline(),
    LEARNED: paceline(given=False),
    LEARNED_Q90: paceline(given=False, quantile=0.9),
    LEARNED_Q98: paceline(given=False, quantile=0.98),
    OURS_PER_WORKER: paceline_per_worker,
}
