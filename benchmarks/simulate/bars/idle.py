"""Bar 5: what batching costs when there is little to do."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.simulate.bars.check import Check, Figures, worst
from benchmarks.simulate.bars.trial import Trial
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import NAIVE
from benchmarks.simulate.latency import MLP, MODELS, RESNET

IDLE, LIGHT = 0.02, 0.3
ROUNDING = 1.000001


def checks(trial: Trial) -> Iterator[Check]:
    models = list(MODELS.values())
    idle = trial.measured(_idle, [Cell(model, "poisson", 5, workers) for model in models for workers in (1, 8)])
    light = trial.measured(_light, [Cell(model, "poisson", 5, 8) for model in (RESNET, MLP)])
    p50 = [(cell, figures["p50"]) for cell, figures in idle]
    yield worst(5, "2 % load, N = 1 and 8: p50 / l(1)", ROUNDING, p50, at_least=False)
    p99 = [(cell, figures["p99 / eager"]) for cell, figures in idle]
    yield worst(5, "2 % load, N = 1 and 8: p99 / that of eager greedy", ROUNDING, p99, at_least=False)
    p99 = [(cell, figures["p99 / fit"]) for cell, figures in light]
    yield worst(5, "N = 8 at 0.3x: p99 / that of eager deadline fit", ROUNDING, p99, at_least=False)


def _idle(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, name = job
    own, eager = (cell.run(each, IDLE * cell.peak_rate, seed) for each in (name, NAIVE))
    return {
        "p50": own.percentile_s(50) / cell.setting.table[1],
        "p99 / eager": own.percentile_s(99) / eager.percentile_s(99),
    }


def _light(job: tuple[Cell, int, str]) -> Figures:
    cell, seed, name = job
    own, fit = (cell.run(each, LIGHT * cell.staggered_rate, seed) for each in (name, "eager fit"))
    return {"p99 / fit": own.percentile_s(99) / fit.percentile_s(99)}
