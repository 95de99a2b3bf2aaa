"""The tables: for each which cells, and what is measured in one. A is about one worker, A2 about overload, B about
several workers, C about estimators, D about light load. A `Line` is one row to be, and travels to another process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan, nan
from pathlib import Path

from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import CORKS, LEARNED, LEARNED_Q90, LEARNED_Q98, NAIVE, OURS, TIMEOUTS
from benchmarks.simulate.latency import CPU, MLP, MODELS, RESNET, Model

TITLES = {
    "A": "One worker: capacity at 99 % / clairvoyant bound (bound in requests/s)",
    "A2": "Overload, one worker: goodput / clairvoyant goodput (load: share of max b/l(b))",
    "B": "Several workers: capacity at 99 % / staggered rule (that in requests/s); "
    "ov: goodput at 1.3x that rate / that rate; p50, p99 at 0.3x in units of S",
    "C": "Estimators: one worker, resnet, S = 5 l(1), Poisson, requests/s at 99 %",
    "D": "Light load: p50 and p99 in units of l(1), S = 5 l(1), Poisson (load: share of N max b/l(b))",
}
COUNTS = {"A": 10_000, "A2": 1_500, "B": 20_000, "C": 10_000, "D": 3_000}  # requests per run, as in the reference
BASELINES_A = ("none", "timeout S/4", "Clipper AIMD", NAIVE, "eager fit", "early drop", "deferred", *CORKS)
BASELINES_A2 = ("none", "Clipper AIMD", NAIVE, "eager fit", "early drop", "deferred", *CORKS)
ROUTED = ("per-worker rr", "per-worker po2", "per-worker jsq")
BASELINES_B = (*ROUTED, NAIVE, "CORK drop rule", "eager fit", "deferred")
BASELINES_C = (*CORKS, "CORK, own line")
BASELINES_D = (NAIVE, "timeout S/4", "CORK 1 ms polls", "deferred")
BASELINES_D8 = (NAIVE, "deferred")
OVERLOAD = 1.3
LIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Line:
    """`load` is a share of a reference rate, where the table is about loads. `own`: contenders beside the baselines."""

    table: str
    cell: Cell
    load: float = nan
    own: tuple[str, ...] = (OURS,)

    @property
    def keys(self) -> dict[str, str]:
        cell = self.cell
        keys = {
            "model": cell.model.name,
            "workload": cell.workload.removesuffix(" from quiet"),
            "S/l(1)": f"{cell.budgets:g}",
        }
        if self.table == "B":
            keys = {
                "model": cell.model.name,
                "workload": cell.workload.removesuffix(" from quiet"),
                "N": str(cell.workers),
                **keys,
            }
        if self.table == "C":
            return {"steps": "power of two" if cell.model.steps else "none", "jitter": f"{cell.sigma:g}"}
        if not isnan(self.load):
            keys["load"] = f"{self.load:g}"
        return keys


def lines(
    table: str, own: tuple[str, ...] = (OURS,), count: int | None = None, recorded: Path | None = None
) -> list[Line]:
    """Every row of this table; with `recorded` arrivals in place of its workloads."""
    found = {"A": _lines_a, "A2": _lines_a2, "B": _lines_b, "C": _lines_c, "D": _lines_d}[table]()
    if recorded is not None:
        found = list(dict.fromkeys((replace(cell, workload=str(recorded)), load) for cell, load in found))
    count = COUNTS[table] if count is None else min(count, COUNTS[table])
    return [Line(table, replace(cell, count=count), load, own) for cell, load in found]


def measure(line: Line, seed: int) -> dict[str, float]:
    """The figures of one row for one seed, by column."""
    by_table = {"A": measure_a, "A2": measure_a2, "B": measure_b, "C": measure_c, "D": measure_d}
    return by_table[line.table](line, seed)


# A


def one_worker_cells() -> list[Cell]:
    """Those in which the clairvoyant schedule reaches 99 % at all."""
    impossible = {("resnet", "mmpp"), ("resnet", "gamma4"), ("mlp", "gamma4")}
    budgets = (2, 3, 5, 10)
    cells = [
        Cell(model, workload, s)
        for model in (RESNET, MLP)
        for workload in ("poisson", "mmpp", "gamma4", "diurnal")
        for s in budgets
        if s > 2 or (model.name, workload) not in impossible
    ]
    return cells + [Cell(CPU, workload, s) for workload in ("poisson", "diurnal") for s in budgets]


def _lines_a() -> list[tuple[Cell, float]]:
    return [(cell, nan) for cell in one_worker_cells()]


def measure_a(line: Line, seed: int) -> dict[str, float]:
    cell = line.cell
    bound = cell.bound(seed)
    if not bound:
        return {"bound": 0.0}
    ratios = {name: cell.capacity(name, seed, bound) / bound for name in (*BASELINES_A, *TIMEOUTS, *line.own)}
    best = max(ratios.pop(name) for name in TIMEOUTS)
    figures = {"bound": bound}
    for name, ratio in ratios.items():
        figures[name] = ratio
        if name == "timeout S/4":
            figures["timeout best of 8"] = best
    return figures


# A2


def _lines_a2() -> list[tuple[Cell, float]]:
    workloads = [(RESNET, "poisson"), (RESNET, "gamma4"), (CPU, "poisson"), (CPU, "gamma4")]
    return [(Cell(model, workload, s), x) for model, workload in workloads for s in (3, 5) for x in (0.4, 0.8, 1.6)]


def measure_a2(line: Line, seed: int) -> dict[str, float]:
    cell = line.cell
    rate = line.load * cell.peak_rate
    possible = cell.count - cell.fewest_misses(rate, seed)
    shares = {name: cell.run(name, rate, seed).good() / possible for name in (*BASELINES_A2, *line.own)}
    return {"clairvoyant share": possible / cell.count, **shares}


# B


def _lines_b() -> list[tuple[Cell, float]]:
    return [
        (Cell(model, workload, s, workers), nan)
        for model in (RESNET, MLP)
        for workers in (8, 2)
        for workload in ("poisson", "mmpp from quiet")
        for s in (2, 3, 5)
    ]


def measure_b(line: Line, seed: int) -> dict[str, float]:
    cell = line.cell
    rate = cell.staggered_rate
    capacities = {name: cell.capacity(name, seed, rate) / rate for name in (*BASELINES_B, *line.own)}
    figures = {"staggered": rate, **capacities}
    for name in ("deferred", *line.own):
        outcome = cell.run(name, OVERLOAD * rate, seed)
        figures[f"{name} ov"] = outcome.good() / outcome.arrivals[-1] / rate
    for name in ("deferred", "eager fit", *line.own):
        outcome = cell.run(name, LIGHT * rate, seed)
        for percent in (50, 99):
            figures[f"{name} p{percent}"] = outcome.percentile_s(percent) / cell.setting.budget_s
    return figures


# C


def _lines_c() -> list[tuple[Cell, float]]:
    stepped = Model("resnet", RESNET.alpha_ms, RESNET.beta_ms, steps=True)
    return [(Cell(model, "poisson", 5, sigma=x), nan) for model in (RESNET, stepped) for x in (0.0, 0.05, 0.15)]


def measure_c(line: Line, seed: int) -> dict[str, float]:
    cell = line.cell
    bound = cell.bound(seed)
    names = (*BASELINES_C, *line.own, LEARNED, LEARNED_Q90, LEARNED_Q98)
    capacities = {name: cell.capacity(name, seed, bound) for name in names}
    return {"clairvoyant": nan if cell.sigma else bound, **capacities}


# D


def _lines_d() -> list[tuple[Cell, float]]:
    return [(Cell(model, "poisson", 5), load) for model in MODELS.values() for load in (0.02, 0.3)]


def measure_d(line: Line, seed: int) -> dict[str, float]:
    cell = line.cell
    pool = Cell(cell.model, cell.workload, cell.budgets, 8, count=cell.count)
    figures = _light(cell, line.load * cell.peak_rate, seed, "", (*BASELINES_D, *line.own))
    return figures | _light(pool, line.load * pool.peak_rate, seed, "N=8 ", (*BASELINES_D8, *line.own))


def _light(cell: Cell, rate: float, seed: int, prefix: str, names: tuple[str, ...]) -> dict[str, float]:
    outcomes = {name: cell.run(name, rate, seed) for name in names}
    return {
        f"{prefix}{name} p{percent}": outcome.percentile_s(percent) / cell.setting.table[1]
        for name, outcome in outcomes.items()
        for percent in (50, 99)
    }
