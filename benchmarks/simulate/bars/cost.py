"""Bar 8: what decisions cost in CPU. The same run three times; of each call the fastest, for the machine has others."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from time import perf_counter

from benchmarks.simulate.bars.check import Check, Figures, worst
from benchmarks.simulate.bars.trial import Trial
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import dispatcher_config
from benchmarks.simulate.dispatcher_loop import DispatcherLoop
from benchmarks.simulate.latency import MLP, RESNET
from paceline.runner.dispatcher import Action, Dispatcher, Event

REQUEST_US_MAX = 5.0
DECISION_MS_MAX = 1.0
REPETITIONS = 3
LOADS = (0.9, 1.6)  # of the reference rate: at and far above capacity
BURST = 1000


def checks(trial: Trial) -> Iterator[Check]:
    cells = [Cell(model, "poisson", s, n) for model in (RESNET, MLP) for s, n in ((3, 1), (5, 1), (2, 8), (5, 8))]
    found = trial.measured(_per_request, cells)
    bursts = trial.measured(
        _longest, [Cell(model, "poisson", 10, n, count=BURST) for model in (RESNET, MLP) for n in (1, 8)]
    )
    yield worst(8, "mean us per request, at 0.9x and 1.6x", REQUEST_US_MAX, [(c, f["us"]) for c, f in found], False)
    yield worst(
        8,
        "ms of the longest decision, a burst of 1000 at once",
        DECISION_MS_MAX,
        [(c, f["ms"]) for c, f in bursts],
        False,
    )


class _Timed:
    """A dispatcher that writes down how long each call took."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.seconds: list[float] = []

    def handle_all(self, events: Iterable[Event], now: float) -> list[Action]:
        begin = perf_counter()
        actions = self._dispatcher.handle_all(events, now)
        self.seconds.append(perf_counter() - begin)
        return actions


def _per_request(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, _ = job
    runs = [_fastest(cell, cell.arrivals(load * cell.staggered_rate, seed)) for load in LOADS]
    return {"us": max(sum(seconds) / cell.count * 1e6 for seconds in runs)}


def _longest(job: tuple[Cell, int, str]) -> Figures:
    """All at once in the second budget of a quiet run: then the queue is longest."""
    cell, seed, _ = job
    quiet = cell.arrivals(0.1 * cell.staggered_rate, seed)
    burst = [cell.setting.budget_s + number * 1e-6 for number in range(cell.count)]
    return {"ms": max(_fastest(cell, sorted([*quiet, *burst]))) * 1e3}


def _fastest(cell: Cell, arrivals: list[float]) -> list[float]:
    setting = cell.setting
    calls: list[list[float]] = []
    gc.freeze()
    for _ in range(REPETITIONS):
        timed = _Timed(Dispatcher(dispatcher_config(setting)))
        DispatcherLoop(timed, arrivals, setting.budget_s, cell.service(0), setting.workers).advance()
        calls.append(timed.seconds)
    return [min(each) for each in zip(*calls)]
