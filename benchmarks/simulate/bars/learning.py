"""Bars 6 and 7: tables that are learned from cold, that change, and batches whose time is not exact."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.simulate.bars.check import Check, Figures, worst
from benchmarks.simulate.bars.trial import Trial
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import LEARNED, contender
from benchmarks.simulate.latency import RESNET, ROUNDING_S, Model, slower_from

STEPPED = Model("resnet", RESNET.alpha_ms, RESNET.beta_ms, steps=True)
DOUBLED = Model("resnet", 2 * RESNET.alpha_ms, 2 * RESNET.beta_ms)
LEARNED_RATIO = 0.95
JITTER_RATIO = 0.85
JITTER = 0.05
FEASIBLE = 0.8  # of what a worker that knows the future can serve after the change
RECOVERY_BUDGETS = 20
ATTAINMENT = 0.99


def checks(trial: Trial) -> Iterator[Check]:
    cells = [Cell(model, "poisson", 5, sigma=sigma) for model in (RESNET, STEPPED) for sigma in (0.0, JITTER)]
    found = trial.measured(_capacities, cells)
    learned = [(cell, figures["learned"] / figures["known"]) for cell, figures in found]
    yield worst(6, "learned from cold / known: capacity, jitter <= 0.05", LEARNED_RATIO, learned)
    changed = trial.measured(_recovery, [Cell(RESNET, "poisson", 10)])
    yield worst(
        6, "l(b) doubles mid-run: attainment from 20 S later", ATTAINMENT, [(c, f["attainment"]) for c, f in changed]
    )
    known = [figures["known"] for _, figures in found]
    jitter = [(cells[1], known[1] / known[0]), (cells[3], known[3] / known[2])]
    yield worst(7, "jitter 0.05 with stalls / none: capacity", JITTER_RATIO, jitter)


def _capacities(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, name = job
    return {
        "known": cell.capacity(name, seed, cell.peak_rate),
        "learned": cell.capacity(LEARNED, seed, cell.peak_rate),
    }


def _recovery(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, _ = job
    budget_s = cell.setting.budget_s
    rate = FEASIBLE * Cell(DOUBLED, cell.workload, cell.budgets / 2).bound(seed)
    arrivals = cell.arrivals(rate, seed)
    change = arrivals[len(arrivals) // 2]
    outcome = contender(LEARNED)(cell.setting, arrivals, slower_from(cell.setting.table, change, 2.0))
    later = change + RECOVERY_BUDGETS * budget_s
    asked = sum(at >= later for at in arrivals)
    good = sum(
        arrivals[number] >= later and batch.finish <= arrivals[number] + budget_s + ROUNDING_S
        for batch in outcome.batches
        for number in batch.requests
    )
    return {"attainment": good / asked}
