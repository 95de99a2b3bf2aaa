"""Admission before the very dispatcher, beyond capacity: who has no chance hears it at once, and nobody else loses.

The API server's side is `Outlook`, fed as in a server: by the wire form of the dispatcher's forecast, at most every
20 ms, and with one worker, which computes in the same thread, only between its batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import dispatcher_config
from benchmarks.simulate.dispatcher_loop import DispatcherLoop
from benchmarks.simulate.latency import RESNET, ROUNDING_S, Service
from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.policy import Setting
from paceline.protocol.outlook import Outlook
from paceline.runner.bulletin import INTERVAL_S, to_wire
from paceline.runner.dispatcher import Action, Arrived, BatchDone, Dispatch, Dispatcher, Event

METHOD, KEY = "predict", b"k"
NAME = (METHOD, KEY, 0)
SEEDS = (1, 2)
COUNT = 3000


class Admitted:
    """A dispatcher behind an API server that knows it by its forecasts alone."""

    def __init__(self, dispatcher: Dispatcher, workers: int) -> None:
        self.refused = 0
        self._dispatcher = dispatcher
        self._deaf = workers == 1
        self._outlook = Outlook(reply_s=0.0)
        self._publish_at = 0.0

    def handle_all(self, events: Iterable[Event], now: float) -> list[Action]:
        admitted = [event for event in map(self._named, events) if self._admits(event, now)]
        actions = self._dispatcher.handle_all(admitted, now)
        between = any(isinstance(each, (BatchDone, Dispatch)) for each in (*admitted, *actions))
        if now >= self._publish_at and (between or not self._deaf):
            self._publish_at = now + INTERVAL_S
            self._outlook.hear(to_wire(self._dispatcher.forecast(now, 8)))
        return actions

    def _named(self, event: Event) -> Event:
        return replace(event, key=(METHOD, KEY)) if isinstance(event, Arrived) else event

    def _admits(self, event: Event, now: float) -> bool:
        if not isinstance(event, Arrived):
            return True
        late_s = self._outlook.late_s(now, NAME, event.rows, event.priority, event.deadline, 0)
        if late_s > 0 and not self._outlook.lets_probe(now, NAME):
            self.refused += 1
            return False
        self._outlook.note(now, event.priority, event.deadline, event.rows)
        return True


def setting_of(cell: Cell, rows_max: int) -> Setting:
    setting = cell.setting
    return Setting(setting.table, setting.budget_s, setting.workers, min(rows_max, setting.batch_max))


def served(cell: Cell, rows_max: int, load: float, seed: int, admission: bool) -> tuple[Outcome, int]:
    """At `load` times what the workers can do in batches of `rows_max`; with the number that was refused at once."""
    setting = setting_of(cell, rows_max)
    dispatcher = Dispatcher(dispatcher_config(setting, given=cell.sigma == 0))
    admitted = Admitted(dispatcher, setting.workers)
    rate = load * setting.workers * setting.batch_max / setting.table[setting.batch_max]
    service: Service = cell.service(seed)
    arrivals = cell.arrivals(rate, seed)
    handler = admitted if admission else dispatcher
    loop = DispatcherLoop(handler, arrivals, setting.budget_s, service, setting.workers)
    loop.advance()
    return loop.outcome, admitted.refused


def good(outcome: Outcome) -> int:
    """Answered in time, but for the end of the run, where nobody comes any more to fill the last batches."""
    arrivals, last = outcome.arrivals, outcome.arrivals[-1] - outcome.budget_s
    served_in_time = [
        number
        for batch in outcome.batches
        for number in batch.requests
        if arrivals[number] < last and batch.finish <= arrivals[number] + outcome.budget_s + ROUNDING_S
    ]
    return len(served_in_time)


def shares(cell: Cell, rows_max: int, load: float) -> tuple[float, float, float, float]:
    """Good without admission and with it, refused at once and dropped later: of all, over the seeds."""
    without = [good(served(cell, rows_max, load, seed, False)[0]) for seed in SEEDS]
    with_it = [served(cell, rows_max, load, seed, True) for seed in SEEDS]
    count = cell.count * len(SEEDS)
    return (
        sum(without) / count,
        sum(good(outcome) for outcome, _ in with_it) / count,
        sum(refused for _, refused in with_it) / count,
        sum(outcome.dropped() for outcome, _ in with_it) / count,
    )


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("workload", "budgets", "rows_max", "load"),
    [
        ("poisson", 3, 23, 1.3),
        ("gamma4", 3, 8, 2.0),
        ("gamma4", 5, 8, 1.3),
        ("poisson", 5, 45, 2.0),
        ("poisson", 10, 8, 1.3),
        ("gamma4", 20, 16, 2.0),
    ],
)
def test_goodput_beyond_capacity_stays(workload: str, budgets: float, rows_max: int, load: float, workers: int) -> None:
    cell = Cell(RESNET, workload, budgets, workers, count=COUNT)
    without, with_it, _, _ = shares(cell, rows_max, load)
    assert with_it >= 0.99 * without


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(("workload", "load"), [("poisson", 1.3), ("gamma4", 2.0)])
def test_who_would_wait_for_nothing_hears_it_at_once(workload: str, load: float, workers: int) -> None:
    """Where a budget holds more than four full batches, next to nobody who was taken is dropped."""
    cell = Cell(RESNET, workload, 20, workers, count=COUNT)
    _, _, refused, dropped = shares(cell, 8, load)
    assert refused > 0.1
    assert dropped < 0.05 * refused


def test_a_learned_table_and_jitter_change_nothing_of_that() -> None:
    cell = Cell(RESNET, "poisson", 20, 4, sigma=0.1, count=COUNT)
    without, with_it, refused, dropped = shares(cell, 16, 1.5)
    assert with_it >= 0.99 * without
    assert dropped < 0.25 * refused  # its probes among them


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_nobody_is_refused_below_capacity(load: float) -> None:
    cell = Cell(RESNET, "poisson", 20, count=COUNT)
    assert served(cell, 16, load, 1, True)[1] == 0


def test_more_load_is_refused_not_served_later() -> None:
    """What is admitted is served as well at twice the capacity as at 1.3 times."""
    cell = Cell(RESNET, "poisson", 20, count=COUNT)
    outcomes = [served(cell, 8, load, 1, True)[0] for load in (1.3, 2.0)]
    lower, higher = (outcome.good() / outcome.arrivals[-1] for outcome in outcomes)
    assert higher >= 0.98 * lower
