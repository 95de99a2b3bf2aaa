"""Bar 3: what is still served far above capacity."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.simulate.bars.check import Check, Figures, worst
from benchmarks.simulate.bars.trial import Trial
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.latency import CPU, MLP, RESNET
from benchmarks.simulate.outcome import Outcome

OVERLOADS = (1.3, 1.6, 2.0)  # times the contender's own capacity
GAMMA_LOADS = (0.4, 0.8, 1.6)  # times max b/l(b), as in table A2: clusters keep the capacity far below that
CLAIRVOYANT_SHARE, CLAIRVOYANT_SHARE_GAMMA = 0.95, 0.87
KEPT_SHARE = 0.98
LATE_SHARE_MAX = 0.005


def checks(trial: Trial) -> Iterator[Check]:
    steady = [Cell(model, "poisson", s) for model in (RESNET, MLP, CPU) for s in (3, 5)]
    clustered = [Cell(model, "gamma4", 3) for model in (RESNET, MLP)]
    if trial.quick:
        steady, clustered = steady[:2], clustered[:1]
    found = trial.measured(_overload, steady)
    gamma = trial.measured(_clusters, clustered)
    yield worst(3, "Poisson, 1.3-2x: goodput / clairvoyant", CLAIRVOYANT_SHARE, [(c, f["share"]) for c, f in found])
    yield worst(3, "Poisson, 1.3-2x: goodput / that at capacity", KEPT_SHARE, [(c, f["kept"]) for c, f in found])
    yield worst(
        3, "gamma at 3 l(1): goodput / clairvoyant", CLAIRVOYANT_SHARE_GAMMA, [(c, f["share"]) for c, f in gamma]
    )
    late = [(cell, figures["late"]) for cell, figures in found + gamma]
    yield worst(3, "late / served, no jitter", LATE_SHARE_MAX, late, at_least=False)


def _overload(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, name = job
    capacity = cell.capacity(name, seed, cell.peak_rate) or 0.1 * cell.peak_rate
    at_capacity = _goodput(cell.run(name, capacity, seed))
    outcomes = {rate: cell.run(name, rate, seed) for rate in (load * capacity for load in OVERLOADS)}
    return {
        "kept": min(_goodput(outcome) / at_capacity for outcome in outcomes.values()),
        **_against_clairvoyant(cell, seed, outcomes),
    }


def _clusters(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, name = job
    outcomes = {rate: cell.run(name, rate, seed) for rate in (load * cell.peak_rate for load in GAMMA_LOADS)}
    return _against_clairvoyant(cell, seed, outcomes)


def _against_clairvoyant(cell: Cell, seed: int, outcomes: dict[float, Outcome]) -> Figures:
    shares = [outcome.good() / (cell.count - cell.fewest_misses(rate, seed)) for rate, outcome in outcomes.items()]
    late = max(outcome.late() / max(1, outcome.late() + outcome.good()) for outcome in outcomes.values())
    return {"share": min(shares), "late": late}


def _goodput(outcome: Outcome) -> float:
    return outcome.good() / outcome.arrivals[-1]
