"""One thing that a bar asks for: a figure and its limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.simulate.cell import Cell

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Check:
    """`value` is the mean of the seeds in the worst cell, which `where` names. No limit: only reported."""

    bar: int
    what: str
    value: float
    limit: float | None
    at_least: bool = True
    where: str = ""

    @property
    def met(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit - ROUNDING if self.at_least else self.value <= self.limit + ROUNDING

    def text(self) -> str:
        verdict = "reported" if self.limit is None else "met" if self.met else "MISSED"
        limit = "" if self.limit is None else f"{'>=' if self.at_least else '<='} {self.limit:g}"
        return f"{self.bar}  {self.what:<72} {self.value:>10.4g}  {limit:<9} {verdict:<9} {self.where}"


Figures = dict[str, float]


def worst(bar: int, what: str, limit: float, cells: Iterable[tuple[Cell, float]], at_least: bool = True) -> Check:
    """The check of the cell that is nearest to missing it, or misses it most."""
    cell, value = (min if at_least else max)(cells, key=lambda item: item[1])
    return Check(bar, what, value, limit, at_least, cell.name)


def means(results: Sequence[Figures]) -> Figures:
    return {column: fmean(figures[column] for figures in results) for column in results[0]}
