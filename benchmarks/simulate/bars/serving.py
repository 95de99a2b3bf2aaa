"""Bar 9: what the real run has to come near to; `benchmarks.serving` measures it. Here its figures in simulation."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.simulate.bars.check import Check, Figures
from benchmarks.simulate.bars.trial import Trial
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import OURS_PER_WORKER
from benchmarks.simulate.latency import Model

SLEEPER = Model("sleeper", 2.0, 18.0)
WORKERS = 4
GAIN_OVER_PER_WORKER = 3.0


def checks(trial: Trial) -> Iterator[Check]:
    (_, roomy), (_, tight) = trial.measured(_capacities, [Cell(SLEEPER, "poisson", s, WORKERS) for s in (5, 2)])
    yield Check(9, "4 sleeping workers at 5 l(1): requests/s, to be met in processes", roomy["central"], None)
    yield Check(9, "4 sleeping workers at 2 l(1): requests/s", tight["central"], None)
    yield Check(9, "the same, a dispatcher per worker: requests/s", tight["per worker"], None)
    gain = tight["central"] / tight["per worker"]
    yield Check(9, "4 sleeping workers at 2 l(1): times a dispatcher per worker", gain, GAIN_OVER_PER_WORKER)


def _capacities(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, name = job
    return {
        "central": cell.capacity(name, seed, cell.staggered_rate),
        "per worker": cell.capacity(OURS_PER_WORKER, seed, cell.staggered_rate),
    }
