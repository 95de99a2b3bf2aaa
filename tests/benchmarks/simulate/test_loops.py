"""What holds after every run of either event loop, whatever the policy."""

from __future__ import annotations

from itertools import chain

import pytest

from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import CONTENDERS, LEARNED, OURS, TIMEOUTS
from benchmarks.simulate.latency import CPU, RESNET, ROUNDING_S, exact
from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.policy import Decision, Queue
from benchmarks.simulate.queue_loop import QueueLoop

NAMES = [name for name in CONTENDERS if name not in TIMEOUTS]


def assert_sound(outcome: Outcome, cell: Cell) -> None:
    """Everyone is answered or dropped once, nobody before arriving, and no worker does two things at a time."""
    served = list(chain.from_iterable(batch.requests for batch in outcome.batches))
    dropped = list(chain.from_iterable(requests for _, requests in outcome.drops))
    assert sorted([*served, *dropped]) == list(range(cell.count))
    free_at = [0.0] * cell.workers
    for batch in sorted(outcome.batches, key=lambda each: each.start):
        assert batch.start >= free_at[batch.worker]
        assert batch.start >= max(outcome.arrivals[number] for number in batch.requests)
        assert 1 <= len(batch.requests) <= cell.setting.batch_max
        free_at[batch.worker] = batch.finish
    for at, requests in outcome.drops:
        assert all(outcome.arrivals[number] <= at for number in requests)
    assert outcome.good() + outcome.late() + outcome.dropped() == cell.count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("load", [0.3, 1.5])
def test_every_run_is_sound(name: str, workers: int, load: float) -> None:
    cell = Cell(RESNET, "gamma4", 5, workers, sigma=0.05, count=400)
    assert_sound(cell.run(name, load * cell.peak_rate, seed=1), cell)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_repeats(name: str) -> None:
    cell = Cell(RESNET, "poisson", 3, 2, sigma=0.15, count=300)
    first, second = (cell.run(name, cell.peak_rate, seed=2) for _ in range(2))
    assert first.batches == second.batches
    assert first.drops == second.drops


@pytest.mark.parametrize("name", ["eager greedy", "deferred", "per-worker jsq", OURS, LEARNED])
def test_a_run_that_stops_early_misses_no_less(name: str) -> None:
    cell = Cell(CPU, "poisson", 3, 2, count=1000)
    assert cell.run(name, 2 * cell.peak_rate, 1, misses_max=20).misses() > 20
    assert len(cell.run(name, 2 * cell.peak_rate, 1, misses_max=20).batches) < 300


@pytest.mark.parametrize("name", ["eager fit", "CORK 1 ms polls", OURS])
def test_one_worker_serves_no_more_than_one_that_knows_the_future(name: str) -> None:
    for seed in range(3):
        cell = Cell(RESNET, "gamma4", 3, count=500)
        rate = 0.5 * cell.peak_rate
        assert cell.run(name, rate, seed).misses() >= cell.fewest_misses(rate, seed)


def test_a_lone_request_takes_the_time_of_a_batch_of_one() -> None:
    cell = Cell(RESNET, "poisson", 5, count=1)
    for name in ("none", "eager greedy", "eager fit", "early drop", "CORK event driven", OURS):
        assert cell.run(name, 10.0, 1).percentile_s(50) == pytest.approx(0.0055)


def test_a_missed_wake_up_is_an_error_not_an_endless_loop() -> None:
    class Stuck:
        def decide(self, queue: Queue, now: float) -> Decision:
            return Decision(0, 0, now)

    loop = QueueLoop(Stuck(), [0.0], 1.0, exact(RESNET.table()), 1)
    with pytest.raises(RuntimeError, match="Stuck"):
        loop.advance()


def test_a_deadline_met_to_the_instant_is_met() -> None:
    outcome = Cell(RESNET, "poisson", 1, count=5).run("none", 1.0, 1)
    assert outcome.good() == 5
    assert outcome.percentile_s(99) <= 0.0055 + ROUNDING_S
