"""A table of results: rows with keys and figures, printed for a person and written as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

KEYS = ("model", "workload", "N", "S/l(1)", "load", "steps", "jitter")


@dataclass(frozen=True, slots=True)
class Row:
    """`keys` say which cell it is, `figures` map columns to the mean over the seeds."""

    keys: dict[str, str]
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Table:
    """One table with a sentence that says what the figures are."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)

    def text(self) -> str:
        """Aligned columns under their names, which are numbered where they are long."""
        keys = list(self.rows[0].keys)
        columns = list(self.rows[0].figures)
        legend = [f"  {number}: {column}" for number, column in enumerate(columns, start=1)]
        lines = [[*keys, *(str(number) for number in range(1, len(columns) + 1))]]
        lines += [[*row.keys.values(), *(figure(row.figures[column]) for column in columns)] for row in self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
        body = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines]
        return "\n".join([f"Table {self.name}. {self.title}", *legend, *body, ""])

    def write_csv(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*self.rows[0].keys, *self.rows[0].figures])
            writer.writerows([*row.keys.values(), *map(figure, row.figures.values())] for row in self.rows)


def figure(value: float) -> str:
    if value != value:
        return "-"
    return f"{value:.0f}" if value >= 20 else f"{value:.3f}"


def read_rows(path: Path) -> list[Row]:
    """Of a CSV file whose lines of comment begin with #. Empty figures are left out."""
    with path.open(newline="") as file:
        lines = csv.DictReader(line for line in file if not line.startswith("#"))
        return [_row(line.items()) for line in lines]


def _row(items: Iterable[tuple[str, str]]) -> Row:
    cells = dict(items)
    keys = {name: text for name, text in cells.items() if name in KEYS}
    return Row(keys, {name: float(text) for name, text in cells.items() if name not in KEYS and text})
