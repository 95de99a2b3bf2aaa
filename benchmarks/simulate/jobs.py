"""Spreads rows times seeds over processes; with one process everything runs here."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from statistics import fmean
from types import TracebackType
from typing import TypeVar

from benchmarks.simulate.table import Row
from benchmarks.simulate.tables import Line, measure

Job = TypeVar("Job")
Result = TypeVar("Result")


class Jobs(AbstractContextManager["Jobs"]):
    """`processes` at a time, in order of the jobs."""

    def __init__(self, processes: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterable[Result]:
        return map(function, jobs) if self._pool is None else self._pool.map(function, jobs)

    def rows(self, lines: Sequence[Line], seeds: Sequence[int]) -> Iterator[Row]:
        """Means over the seeds, row by row as they are done."""
        for line, by_seed in self.by_seed(lines, seeds):
            columns = dict.fromkeys(column for figures in by_seed for column in figures)
            means = {column: fmean(figures[column] for figures in by_seed if column in figures) for column in columns}
            yield Row(line.keys, means)

    def by_seed(self, lines: Sequence[Line], seeds: Sequence[int]) -> Iterator[tuple[Line, list[dict[str, float]]]]:
        """Each line with its figures for every seed."""
        results = iter(self.map(_measure, [(line, seed) for line in lines for seed in seeds]))
        for line in lines:
            yield line, [next(results) for _ in seeds]


def _measure(job: tuple[Line, int]) -> dict[str, float]:
    return measure(*job)
