"""Bars 1 and 2: one worker against the clairvoyant bound, and against CORK."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from benchmarks.simulate.bars.check import Check, Figures, worst
from benchmarks.simulate.bars.trial import Trial
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import CORKS, LEARNED
from benchmarks.simulate.latency import RESNET, Model
from benchmarks.simulate.tables import one_worker_cells

STEADY = ("poisson", "diurnal")
STEADY_RATIOS = {3: 0.87, 5: 0.94, 10: 0.97}
MMPP_RATIOS = {3: 0.85, 5: 0.93, 10: 0.96}
GAMMA_RATIOS = {5: 0.75, 10: 0.86}
CPU_RATIO = 0.92
CORK_RATIO, CORK_RATIO_GAMMA = 0.985, 0.95
GAIN_OVER_CORK = 0.025
GAIN_WITH_STEPS = 1.15


def checks(trial: Trial) -> Iterator[Check]:
    cells = [cell for cell in one_worker_cells() if not trial.quick or (cell.model is RESNET and cell.budgets > 2)]
    found = trial.measured(_capacities, cells)
    yield from _against_bound(found)
    yield from _against_cork(found)
    stepped = Cell(Model("resnet", RESNET.alpha_ms, RESNET.beta_ms, steps=True), "poisson", 5)
    gain = trial.measured(_gain_with_steps, [stepped])
    yield Check(2, "learned table / CORK with its own line, steps", gain[0][1]["gain"], GAIN_WITH_STEPS)


def _against_bound(found: list[tuple[Cell, Figures]]) -> Iterator[Check]:
    def cells(workloads: tuple[str, ...], cpu: bool = False, budgets: float = 0) -> list[tuple[Cell, float]]:
        return [
            (cell, figures["ratio"])
            for cell, figures in found
            if cell.workload in workloads
            and (cell.model.name == "cpu") is cpu
            and cell.budgets == (budgets or cell.budgets)
        ]

    for what, workloads, ratios in (
        ("Poisson, diurnal", STEADY, STEADY_RATIOS),
        ("mmpp", ("mmpp",), MMPP_RATIOS),
        ("gamma CV 4", ("gamma4",), GAMMA_RATIOS),
    ):
        for budgets, ratio in ratios.items():
            yield worst(1, f"{what} at {budgets} l(1): capacity / bound", ratio, cells(workloads, budgets=budgets))
    if cells(STEADY, cpu=True):
        yield worst(1, "cpu, Poisson and diurnal: capacity / bound", CPU_RATIO, cells(STEADY, cpu=True))


def _against_cork(found: list[tuple[Cell, Figures]]) -> Iterator[Check]:
    versus = [(cell, figures["ratio"] / max(figures[name] for name in CORKS)) for cell, figures in found]
    gamma = [(cell, ratio) for cell, ratio in versus if cell.workload == "gamma4"]
    others = [(cell, ratio) for cell, ratio in versus if cell.workload != "gamma4"]
    yield worst(2, "against the better CORK, Poisson, mmpp, diurnal", CORK_RATIO, others)
    yield worst(2, "against the better CORK, gamma", CORK_RATIO_GAMMA, gamma)
    roomy = [figures for cell, figures in found if cell.budgets >= 3]
    best = max(fmean(figures[name] for figures in roomy) for name in CORKS)
    mean = fmean(figures["ratio"] for figures in roomy)
    yield Check(2, "mean over S >= 3 l(1) less that of the better CORK", mean - best, GAIN_OVER_CORK)
    yield Check(2, "mean over S >= 3 l(1): capacity / bound", mean, None)


def _capacities(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, name = job
    bound = cell.bound(seed)
    corks = {cork: cell.capacity(cork, seed, bound) / bound for cork in CORKS}
    return {"ratio": cell.capacity(name, seed, bound) / bound, **corks}


def _gain_with_steps(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, name = job
    bound = cell.bound(seed)
    own = cell.capacity(LEARNED if name.startswith("Paceline") else name, seed, bound)
    return {"gain": own / cell.capacity("CORK, own line", seed, bound)}
