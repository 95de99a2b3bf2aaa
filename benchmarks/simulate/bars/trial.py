"""Who is held to the bars, and how: runs the measurement of a bar for each of its cells and seeds, keeps the means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.simulate.bars.check import Figures, means
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.jobs import Jobs

Measure = Callable[[tuple[Cell, int, str]], Figures]


@dataclass(frozen=True, slots=True)
class Trial:
    """`name` is the contender that is held to the bars. `quick` leaves out cells."""

    jobs: Jobs
    seeds: tuple[int, ...]
    name: str
    quick: bool = False

    def measured(self, measure: Measure, cells: Sequence[Cell]) -> list[tuple[Cell, Figures]]:
        """`measure` gets a cell, a seed and the name of the contender."""
        results = iter(self.jobs.map(measure, [(cell, seed, self.name) for cell in cells for seed in self.seeds]))
        return [(cell, means([next(results) for _ in self.seeds])) for cell in cells]
