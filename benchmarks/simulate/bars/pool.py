"""Bar 4: several workers with one queue, against the staggered rule, deferral and a queue per worker."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.simulate.bars.check import Check, Figures, worst
from benchmarks.simulate.bars.trial import Trial
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import OURS_PER_WORKER
from benchmarks.simulate.latency import RESNET
from benchmarks.simulate.tables import ROUTED, lines

RATIOS = {8: {2: 0.85, 3: 0.92, 5: 0.96}, 2: {2: 0.65, 3: 0.80, 5: 0.90}}
RESOLUTION = 0.005  # of a capacity: a tie is not a defeat
GAIN_OVER_PER_WORKER = 4.0


def checks(trial: Trial) -> Iterator[Check]:
    cells = [line.cell for line in lines("B")]
    if trial.quick:
        cells = [cell for cell in cells if cell.model is RESNET and cell.workload == "poisson"]
    found = trial.measured(_capacities, cells)
    for workers, ratios in RATIOS.items():
        for budgets, ratio in ratios.items():
            steady = [
                (cell, figures["ratio"])
                for cell, figures in found
                if (cell.workload, cell.workers, cell.budgets) == ("poisson", workers, budgets)
            ]
            yield worst(4, f"N = {workers}, Poisson at {budgets} l(1): capacity / staggered rule", ratio, steady)
    above = [(cell, figures["ratio"] - figures["deferred"]) for cell, figures in found]
    yield worst(4, "above deferred (Symphony) in every cell, or a tie", -RESOLUTION, above)
    tight = [
        (cell, figures["ratio"] / figures["per worker"])
        for cell, figures in found
        if (cell.workload, cell.workers, cell.budgets) == ("poisson", 8, 2)
    ]
    yield worst(4, "N = 8, Poisson at 2 l(1): times the best queue per worker", GAIN_OVER_PER_WORKER, tight)


def _capacities(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, name = job
    rate = cell.staggered_rate
    tight = cell.workload == "poisson" and cell.budgets == 2
    names = (*ROUTED, OURS_PER_WORKER) if tight and cell.workers == 8 else ()
    return {
        "ratio": cell.capacity(name, seed, rate) / rate,
        "deferred": cell.capacity("deferred", seed, rate) / rate,
        "per worker": max((cell.capacity(other, seed, rate) / rate for other in names), default=1.0),
    }
